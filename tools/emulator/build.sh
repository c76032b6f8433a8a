#!/usr/bin/env bash
# Builds the emulated CUDA libraries into a folder: bash build.sh FOLDER
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:?usage: build.sh FOLDER}"
mkdir -p "$out"
build() { # source, name that programs ask for
    g++ -std=c++17 -O2 -Wall -shared -fPIC -DEMULATOR_DIR="\"$here\"" -Wl,-soname,"$2" -o "$out/$2.new" "$here/$1"
    mv "$out/$2.new" "$out/$2" # in one piece, for whoever builds at the same time
}
build cuda.cpp libcuda.so.1
build nvrtc.cpp libnvrtc.so.13
build cublaslt.cpp libcublasLt.so.13
build cudnn.cpp libcudnn.so.9
build nccl.cpp libnccl.so.2
