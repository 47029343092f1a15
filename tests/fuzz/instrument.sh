#!/bin/sh
# Stands in for rustc where cargo compiles crates of this workspace for fuzzing: counters for
# libFuzzer at every edge and comparison, and AddressSanitizer. Crates of others stay as they are,
# so that what other builds have made of them is used again.
set -eu
. "$(dirname "$0")/sanitized.sh"
case " $* " in
*" --target "*)
    set -- "$@" -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec_sanitized "$@"
