# Sourced by the scripts beside it.

# Runs rustc with AddressSanitizer. What is compiled without naming a target (build scripts, macros)
# runs while others are built, and stays as it is.
exec_sanitized() {
    case " $* " in
    *" --target "*) ;;
    *) exec "$@" ;;
    esac
    # The sanitizer wants the C library's own symbols, which a static program does not have.
    left=$#
    while [ "$left" -gt 0 ]; do
        case $1 in
        target-feature=+crt-static) set -- "$@" target-feature=-crt-static ;;
        *) set -- "$@" "$1" ;;
        esac
        shift
        left=$((left - 1))
    done
    # The option is one of those that need permission.
    RUSTC_BOOTSTRAP=1 exec "$@" -Z sanitizer=address
}
