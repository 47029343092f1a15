#!/bin/sh
# Stands in for rustc where cargo compiles crates of this workspace for tests with AddressSanitizer.
set -eu
. "$(dirname "$0")/sanitized.sh"
exec_sanitized "$@"
