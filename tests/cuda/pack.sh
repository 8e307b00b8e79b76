# shellcheck shell=bash
# Sourced by `tests/gpu.sh pack`, in the root of the repository: makes gpu-pack/, which is all that goes to a machine
# with a card. It mirrors the repository, but for programs and the peer's source, which are compressed.

# The models that tests name, then small ones of every family and kind.
golden="mixtral qwen2moe qwen3moe gpt-oss glm4moe deepseek3 text
    bailingmoe2 deepseek2-yarn deepseek3-fp8 gemma3-linear german-moe-bias glm4-moe-lite kimi-k2-int4
    llama-yarn-whole llama3-biased minimax-m2 mistral-window moe-124m-checkpoint qwen2-tied qwen2moe-norm qwen3-yarn
    qwen3moe-mixed"
most_bytes=$((60 << 20))

# The program of a target that cargo's messages tell: kind and name.
executable_of() {
    sed -n "/\"kind\":\[\"$1\"\],.*\"name\":\"$2\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}

# Programs of one source are alike: one stream, which remembers enough of it.
pack_programs() {
    local programs=$1 messages
    messages=$(cargo build --release -p moewe --message-format json)
    strip -o "$programs/moewe" "$(executable_of bin moewe <<<"$messages")"
    messages=$(cargo test --no-run -p moewe -p moewe-engine --lib --test cuda --message-format json)
    strip -o "$programs/cuda" "$(executable_of test cuda <<<"$messages")"
    strip -o "$programs/moewe_engine" "$(executable_of lib moewe_engine <<<"$messages")"
    if [ -n "${MOEWE_TRAIN_BINARY:-}" ]; then strip -o "$programs/moewe-train" "$MOEWE_TRAIN_BINARY"; fi
    tar -c --owner 0 --group 0 -C "$programs" . |
        xz --x86 --lzma2=preset=6,dict=128MiB >"$pack/programs.tar.xz"
}

# What a build for cards needs of llama.cpp.
pack_peer() {
    tar -c --owner 0 --group 0 -C "$1" --exclude 'ggml-vulkan' --exclude 'ggml-opencl' --exclude 'ggml-sycl' \
        --exclude 'ggml-hexagon' --exclude 'ggml-cann' --exclude 'tools/ui' --exclude '*.mp4' \
        --exclude 'miniaudio.h' CMakeLists.txt cmake include src ggml common vendor tools app scripts |
        xz >"$pack/peer.tar.xz"
}

# Hashes of logits that the emulated driver computes, by the programs that are taken along.
pack_bits() {
    local programs=$1 driver=$2/driver log=$2/bits.log
    if ! "${CXX:-g++}" --version >/dev/null 2>&1; then
        echo "SKIPPED: what the emulated driver computes (no C++ compiler)"
        return
    fi
    tests/cuda/build.sh "$driver"
    export MOEWE_BIN=$programs/moewe MOEWE_TEST_DATA=$pack MOEWE_CUDA_LIBRARY=$driver/libcuda.so.1
    export MOEWE_CUDA_REAL=1 RUST_MIN_STACK=16777216
    if ! { "$programs/cuda" --nocapture every_golden_model &&
        "$programs/cuda" --nocapture --ignored --exact budgets prompts::pieces; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    grep -o '^bits .*' "$log" | LC_ALL=C sort -u >"$pack/bits"
}

pack_all() { # FOLDER for what is not packed
    pack=$PWD/gpu-pack
    local programs=$1/programs name bytes
    rm -rf "$pack"
    mkdir -p "$pack/tests/cuda" "$pack/tests/golden" "$programs"
    cp tests/gpu.sh "$pack/tests/"
    cp tests/cuda/probe.cu tests/cuda/bench_model.py "$pack/tests/cuda/"
    for name in $golden; do cp -r "tests/golden/$name" "$pack/tests/golden/"; done
    for name in engine/src/cuda/ptx/products_*.ptx; do basename "${name#*products_}" .ptx; done >"$pack/formats"
    if [ -n "${MOEWE_PEER_SOURCE:-}" ]; then
        pack_peer "$MOEWE_PEER_SOURCE"
    else
        echo "SKIPPED: the peer (MOEWE_PEER_SOURCE names no folder)"
    fi
    pack_programs "$programs"
    [ "${MOEWE_PACK_BITS:-1}" = 0 ] || pack_bits "$programs" "$1"
    (cd "$pack" && find . -type f -printf '%9s %P\n' | LC_ALL=C sort -k 2)
    bytes=$(find "$pack" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%d", sum }')
    awk -v bytes="$bytes" -v most="$most_bytes" \
        'BEGIN { printf "gpu-pack: %.1f MiB of %d\n", bytes / 1048576, most / 1048576 }'
    if [ "$bytes" -gt "$most_bytes" ]; then
        echo "too large: take a folder off the list of golden models in $0" >&2
        exit 1
    fi
}
