#!/bin/sh
# Builds the library, installs it under a fresh prefix, moves the prefix, and runs the C
# tests against what is there: with CMake (shared and static), with pkg-config, and, where
# valgrind is at hand, under it. Extra arguments go to ctest.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake -S . -B "$work/build" > "$work/log" || { cat "$work/log" >&2; exit 1; }
cmake --build "$work/build"
cmake --install "$work/build" --prefix "$work/first" > "$work/log"
# An installed package may be moved.
mv "$work/first" "$work/prefix"

cmake -S tests/c -B "$work/tests" -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_PREFIX_PATH="$work/prefix" > "$work/log" || { cat "$work/log" >&2; exit 1; }
cmake --build "$work/tests" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
command -v valgrind > /dev/null || echo "c: valgrind is missing; its runs are skipped (Debian: apt-get install valgrind)"
ctest --test-dir "$work/tests" --output-on-failure "$@"

if command -v pkg-config > /dev/null; then
    export PKG_CONFIG_PATH="$work/prefix/lib/pkgconfig"
    # shellcheck disable=SC2046
    cc -std=c11 -Wall -Wextra -Wpedantic -Werror tests/c/layout.c -o "$work/layout" \
        $(pkg-config --cflags --libs cortex)
    LD_LIBRARY_PATH="$work/prefix/lib" "$work/layout"
    # shellcheck disable=SC2046
    cc -std=c11 tests/c/layout.c -o "$work/layout_static" $(pkg-config --cflags cortex) \
        "$work/prefix/lib/libcortex.a" $(pkg-config --libs --static cortex | sed 's/-lcortex//;s/-L[^ ]*//')
    "$work/layout_static"
    echo "c: pkg-config builds run"
else
    echo "c: pkg-config is missing; its builds are skipped"
fi
