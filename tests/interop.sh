#!/usr/bin/env bash
# Compares Möwe with llama.cpp, both ways: tests/interop.sh BIN SOURCE
#   BIN     folder of llama.cpp's programs and libraries, as its build makes it (build/bin)
#   SOURCE  llama.cpp's source, for its headers [default: two folders above BIN]
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:?the folder of llama.cpp\'s programs}")
source=$(realpath "${2:-$bin/../..}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${CC:-cc}" -O2 -Wall -I"$source/include" -I"$source/ggml/include" tests/interop/logits.c -o "$folder/logits" \
    -L"$bin" -Wl,-rpath,"$bin" -Wl,-rpath-link,"$bin" -lllama -lggml -lggml-base
MOEWE_LLAMA_CPP=$bin MOEWE_LLAMA_LOGITS=$folder/logits cargo test --test interop -- --nocapture --test-threads 1
