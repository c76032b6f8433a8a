#!/bin/sh
# What docs/cuda.md has still to be told of a GPU, in one command: whether it computes what the CPU does, and how fast it
# trains beside PyTorch, with the steps' profiles. Each part's words go to a file of its own in OUT; later parts go on
# where one fails. NVRTC, and cuDNN where it is to be timed, are looked for on the loader's path (LD_LIBRARY_PATH).
#   cargo build --release -p rissole-train
#   benches/compare/gpu.sh OUT      # PYTHON: an interpreter with requirements.txt
set -u
out=${1:?usage: benches/compare/gpu.sh OUT}
here=$(dirname "$0")
python=${PYTHON:-python3}
train=${CARGO_TARGET_DIR:-$here/../../target}/release/rissole-train

mkdir -p "$out" || exit
"$train" --device cuda:0 bench-step --batch 1 --steps 1 >/dev/null || exit
nvidia-smi >"$out/device.txt" 2>&1

failed=
part() {
    name=$1
    shift
    echo "== $name" >&2
    "$@" >"$out/$name.txt" 2>&1 || failed="$failed $name"
    tail -n 3 "$out/$name.txt" >&2
}

for way in direct patches; do
    part "check-$way" "$train" check-device --device cuda:0 --convolutions "$way"
done
if "$train" --device cuda:0 --convolutions cudnn bench-step --batch 1 --steps 1 >/dev/null; then
    part check-cudnn "$train" check-device --device cuda:0 --convolutions cudnn
else
    echo '== check-cudnn: skipped' >&2
fi
for batch in 256 2048; do
    part "unet-$batch" "$python" "$here/gpu_step.py" --rissole "$train" --network unet --batch "$batch"
done
for batch in 64 256; do
    part "vqgan-$batch" "$python" "$here/gpu_step.py" --rissole "$train" --network vqgan --batch "$batch"
done

[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
