# Sourced by the scripts beside it.

# Runs a command with rustc's arguments, and those for libFuzzer's counters at every edge and
# comparison. What nothing refers to goes from the program, and its counters with it: the engine
# looks at all of them after every input.
counted() {
    run=$1
    shift
    case " $* " in
    *" --target "*)
        set -- "$@" -C passes=sancov-module \
            -C llvm-args=-sanitizer-coverage-level=4 \
            -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
            -C llvm-args=-sanitizer-coverage-pc-table \
            -C llvm-args=-sanitizer-coverage-trace-compares \
            -C link-arg=-Wl,-z,start-stop-gc
        ;;
    esac
    "$run" "$@"
}
