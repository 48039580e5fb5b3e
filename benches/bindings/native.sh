#!/bin/sh
# The C and the C++ bench of a call, built against the installed library.
#   native.sh build   builds them
#   native.sh c       runs the one in C; prints a JSON line a case
#   native.sh cpp     runs the one in C++
#   native.sh         all of that
set -eu
cd "$(dirname "$0")/../.."
work=${CARGO_TARGET_DIR:-target}/bindings

build() {
    mkdir -p "$work"
    {
        cmake -S . -B "$work/build"
        cmake --build "$work/build"
        cmake --install "$work/build" --prefix "$work/prefix"
    } > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    flags="-O2 -I$work/prefix/include -L$work/prefix/lib -Wl,-rpath,$(cd "$work/prefix/lib" && pwd)"
    # shellcheck disable=SC2086
    cc -std=c11 -D_XOPEN_SOURCE=700 $flags benches/bindings/call.c -lcortex -o "$work/call_c"
    # shellcheck disable=SC2086
    c++ -std=c++17 $flags benches/bindings/call.cpp -lcortex -o "$work/call_cpp"
}

case "${1:-all}" in
    build) build ;;
    c | cpp) exec "$work/call_$1" ;;
    all)
        build
        "$work/call_c"
        "$work/call_cpp"
        ;;
    *)
        echo "native.sh: build, c or cpp" >&2
        exit 2
        ;;
esac
