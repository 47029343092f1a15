#!/bin/sh
# Like instrument.sh, without AddressSanitizer.
set -eu
. "$(dirname "$0")/sanitized.sh"
. "$(dirname "$0")/counted.sh"
counted exec_dynamic "$@"
