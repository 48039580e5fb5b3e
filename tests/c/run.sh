#!/bin/sh
# Builds the library, installs it under a fresh prefix, moves the prefix, and runs the C and
# C++ tests against what is there: with CMake (shared and static; C11, C++17, C++20, C++
# without exceptions), with pkg-config, and, where valgrind is at hand, under it. Extra
# arguments go to ctest. The C++ tests need a JSON parser (Debian: nlohmann-json3-dev), which
# is installed where it is missing and that is possible.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has_json() { echo '#include <nlohmann/json.hpp>' | c++ -E -x c++ - > /dev/null 2>&1; }
if ! has_json; then
    if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
        echo "nlohmann/json.hpp is missing: installing nlohmann-json3-dev"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nlohmann-json3-dev > /dev/null
    else
        echo "nlohmann/json.hpp is missing: install nlohmann-json3-dev and run again" >&2
        exit 1
    fi
fi

cmake -S . -B "$work/build" > "$work/log" || { cat "$work/log" >&2; exit 1; }
cmake --build "$work/build"
cmake --install "$work/build" --prefix "$work/first" > "$work/log"
# An installed package may be moved.
mv "$work/first" "$work/prefix"
"$work/prefix/bin/cortex" --version

command -v valgrind > /dev/null || echo "c: valgrind is missing; its runs are skipped (Debian: apt-get install valgrind)"
for language in c cpp; do
    cmake -S tests/$language -B "$work/$language" -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_PREFIX_PATH="$work/prefix" > "$work/log" || { cat "$work/log" >&2; exit 1; }
    cmake --build "$work/$language" -j 2 > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    ctest --test-dir "$work/$language" --output-on-failure "$@"
done

if command -v pkg-config > /dev/null; then
    export PKG_CONFIG_PATH="$work/prefix/lib/pkgconfig"
    # compile COMPILER SOURCE NAME: shared and static, and runs both.
    compile() {
        # shellcheck disable=SC2046,SC2086
        $1 -Wall -Wextra -Wpedantic -Werror "$2" -o "$work/$3" $(pkg-config --cflags --libs cortex)
        # shellcheck disable=SC2046,SC2086
        $1 "$2" -o "$work/$3_static" $(pkg-config --cflags cortex) \
            "$work/prefix/lib/libcortex.a" $(pkg-config --libs --static cortex | sed 's/-lcortex//;s/-L[^ ]*//')
        LD_LIBRARY_PATH="$work/prefix/lib" "$work/$3"
        "$work/$3_static"
    }
    compile 'cc -std=c11' tests/c/layout.c layout
    compile 'c++ -std=c++17' tests/cpp/sdr.cpp sdr
    compile 'c++ -std=c++20' tests/cpp/sdr.cpp sdr20
    echo "c: pkg-config builds run"
else
    echo "c: pkg-config is missing; its builds are skipped"
fi
