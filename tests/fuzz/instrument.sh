#!/bin/sh
# Stands in for rustc where cargo compiles crates of this workspace for fuzzing: with counters for
# libFuzzer and AddressSanitizer. Crates of others stay as they are, so that what other builds have
# made of them is used again.
set -eu
. "$(dirname "$0")/sanitized.sh"
. "$(dirname "$0")/counted.sh"
counted exec_sanitized "$@"
