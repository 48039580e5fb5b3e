#!/usr/bin/env bash
# Runs every test in every language, after setting up what they need. Needs a Rust
# toolchain and a C compiler; CMake, pkg-config, valgrind, the ABI tools, Python, Node, a JDK
# and Maven are installed by apt-get where they are missing and that is possible. The packages
# that the tests of Python, Node and Java need come from PyPI, npm and Maven Central.
#
# CORTEX_DATA may name a folder of model files for the tests that read real ones;
# without it they say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n==> %s\n' "$*"; }

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "$1 is missing: installing $2"
        { [ -n "${apt_updated:-}" ] || apt-get update -qq; } && apt_updated=1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
    else
        echo "$1 is missing: install $2 and run again" >&2
        exit 1
    fi
}

command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
need cc build-essential
need cmake cmake
need pkg-config pkg-config
need valgrind valgrind
need abidiff abigail-tools
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || need ensurepip python3-venv
need node nodejs
need npm npm
need javac default-jdk-headless
need mvn maven

# In the background: most of it is a compiler with one thread.
step "AArch64: building and testing under qemu begins; its output follows further down"
arm_log=$(mktemp)
bash tests/arm/run.sh >"$arm_log" 2>&1 &
arm=$!
trap 'kill "$arm" 2>/dev/null || true; rm -f "$arm_log"' EXIT

step "Rust: unit, integration and documentation tests"
cargo test --workspace

step "Rust: the same without vector instructions, kernels and forms only"
CORTEX_DISABLE_CPU=avx2 cargo test --test conformance --test matmul --test archive

step "The recipe for adding a form, followed"
cargo xtask recipe

step "C and C++: the installed package, and the tests under valgrind"
bash tests/c/run.sh

step "C: the exported symbols, and the two header generators compared"
bash tests/abi/check.sh

step "Python: the installed package, its tests and types"
bash bindings/python/test.sh

step "Node: the package, its tests and types"
(cd bindings/node && npm ci --no-audit --no-fund && npm test)

step "Java: the package, its tests and documentation"
(cd bindings/java && mvn -q -B test && mvn -q -B javadoc:javadoc)

# Those of the other languages ran with their tests.
step "Examples: digits, and the quickstart in Java"
bash examples/digits/run.sh
target=${CARGO_TARGET_DIR:-target}
"$target/release/cortex" compress examples/digits/digits.safetensors -o "$target/digits.cai"
java -cp bindings/java/target/classes examples/java/Quickstart.java "$target/digits.cai"

step "AArch64: kernels under qemu"
arm_failed=
wait "$arm" || arm_failed=yes
cat "$arm_log"
[ -z "$arm_failed" ] || exit 1

step "all tests passed"
