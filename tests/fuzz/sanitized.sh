# Sourced by the scripts beside it.

# Runs rustc for a program that is linked dynamically: sanitizer and engine put themselves before the
# C library's own functions, which a static program does not allow.
exec_dynamic() {
    left=$#
    while [ "$left" -gt 0 ]; do
        case $1 in
        target-feature=+crt-static) set -- "$@" target-feature=-crt-static ;;
        *) set -- "$@" "$1" ;;
        esac
        shift
        left=$((left - 1))
    done
    exec "$@"
}

# Runs rustc with AddressSanitizer. What is compiled without naming a target (build scripts, macros)
# runs while others are built, and stays as it is.
exec_sanitized() {
    case " $* " in
    *" --target "*) ;;
    *) exec "$@" ;;
    esac
    # The option is one of those that need permission.
    export RUSTC_BOOTSTRAP=1
    exec_dynamic "$@" -Z sanitizer=address
}
