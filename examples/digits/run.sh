#!/usr/bin/env bash
# Compresses the digits model and checks that it still reads digits. Needs a Rust
# toolchain (1.89 or newer) and a C compiler; says so if one is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in cargo cc; do
    if ! command -v "$tool" >/dev/null; then
        case "$tool" in
            cargo) echo "cargo is missing: install Rust from https://rustup.rs" >&2 ;;
            cc) echo "a C compiler is missing: on Debian or Ubuntu, apt-get install build-essential" >&2 ;;
        esac
        exit 1
    fi
done
exec cargo run --release --quiet --example digits
