#!/usr/bin/env bash
# The kernels of AArch64: builds them by themselves with their tests (Cargo.toml beside this), and
# runs those under qemu as three CPUs, which differ in the best set of kernels that they have.
#
# Needs a Rust compiler with a standard library for AArch64 (rustup target add
# aarch64-unknown-linux-gnu; without it Debian's is unpacked below target/), a C compiler for
# it, and qemu, which are installed by apt-get where they are missing and that is possible.
# What cannot be had ends the script with a message that says so, and with success.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu
mkdir -p "${CARGO_TARGET_DIR:-target}/arm"
work=$(cd "${CARGO_TARGET_DIR:-target}/arm" && pwd)

say() { printf 'arm: %4d s: %s\n' "$SECONDS" "$*"; }

not_run() {
    echo "**************************************************************************" >&2
    echo "arm: THE TESTS FOR AARCH64 WERE NOT RUN: $*" >&2
    echo "**************************************************************************" >&2
    exit 0
}

can_install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]
}

install() { # install PACKAGE...
    can_install || not_run "needs $* (Debian's names)"
    say "installing $*"
    if [ -z "${updated:-}" ]; then
        apt-get update -qq || not_run "apt-get update failed"
        updated=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >"$work/apt.log" 2>&1 || {
        tail -n 5 "$work/apt.log" >&2
        not_run "apt-get install $* failed"
    }
}

has_std() { # has_std RUSTC: whether it has a standard library for the target
    local libraries
    libraries=$("$1" --print target-libdir --target "$target" 2>/dev/null) && [ -d "$libraries" ]
}

# Debian's compiler, with the libraries of both architectures, to $work/rust. Unpacked and not
# installed: its packages and rustup's conflict. apt has lists of its own for this, so that
# arm64 does not become an architecture of the machine.
unpack_rust() {
    can_install && [ "$(dpkg --print-architecture)" = amd64 ] ||
        not_run "rustc has no libraries for it (rustup target add $target)"
    say "rustc has no libraries for it: unpacking Debian's compiler to $work/rust"
    rm -rf "$work/rust"
    mkdir -p "$work/rust" "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    local apt=(-qq -o APT::Architectures::=amd64 -o APT::Architectures::=arm64
        -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache"
        -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update || not_run "apt-get update failed"
    field() { # field PACKAGE NAME
        apt-cache "${apt[@]}" show --no-all-versions "$1" 2>/dev/null | sed -n "s/^$2: //p"
    }
    local version oldest libraries llvm
    version=$(field rustc-web Version)
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [ -n "$version" ] && dpkg --compare-versions "$version" ge "$oldest" ||
        not_run "Debian's rustc-web is ${version:-missing}, and Rust $oldest is needed"
    [ "$version" = "$(field libstd-rust-web-dev:arm64 Version)" ] ||
        not_run "there is no libstd-rust-web-dev $version for arm64"
    libraries=$(field libstd-rust-web-dev Depends | grep -o 'libstd-rust-web-[0-9.]*[0-9]' | head -n 1)
    llvm=$(field "$libraries" Depends | grep -o 'libllvm[0-9.]*')
    (
        cd "$work/apt"
        apt-get "${apt[@]}" download rustc-web "$libraries" \
            libstd-rust-web-dev libstd-rust-web-dev:arm64
        for package in *.deb; do
            dpkg -x "$package" "$work/rust"
        done
    ) || not_run "Debian's packages of Rust cannot be downloaded"
    rm -r "$work/apt"
    install "$llvm"
    cat >"$work/rust/rustc" <<END
#!/bin/sh
LD_LIBRARY_PATH='$work/rust/usr/lib/x86_64-linux-gnu' exec '$work/rust/usr/bin/rustc' "\$@"
END
    chmod +x "$work/rust/rustc"
    has_std "$work/rust/rustc" || not_run "Debian's compiler does not work here"
}

if [ "$(uname -m)" = aarch64 ]; then
    not_run "this machine has one, for which all other tests are"
fi
command -v aarch64-linux-gnu-gcc >/dev/null || install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
command -v qemu-aarch64 >/dev/null || install qemu-user
rustc=${RUSTC:-rustc}
if ! has_std "$rustc"; then
    rustc=$work/rust/rustc
    has_std "$rustc" || unpack_rust
fi

export RUSTC=$rustc CARGO_TARGET_DIR=$work
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
run=(cargo test --manifest-path tests/arm/Cargo.toml --target "$target" --test kernels)
say "building with $("$rustc" --version)"
"${run[@]}" --no-run

# The CPU, and the set of kernels that it must have: tests/kernels.rs holds it to that.
for pair in max=neoni8mm neoverse-n1=neon cortex-a72=portable; do
    cpu=${pair%=*} set=${pair#*=}
    # Sets differ in the products of tiles alone, and the portable loops are tested on every
    # machine: here it matters that they are chosen.
    case $set in
        neoni8mm) only=() ;;
        neon) only=(sets_come_best_first tiles_) ;;
        *) only=(sets_come_best_first) ;;
    esac
    say "running as $cpu, whose kernels are those of $set"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $cpu" \
        CORTEX_EXPECTED_SET=$set "${run[@]}" -- "${only[@]}"
done
say "done"
