#!/usr/bin/env bash
# All that only a card can tell, for a short time with one: a machine with a driver and nvcc, without cargo or network.
usage() {
    cat <<'END'
tests/gpu.sh pack                                       here: fills gpu-pack/, which is all that is taken along
gpu-pack/tests/gpu.sh facts|check|bench|train [--emulated LIB]    there, each in less than ten minutes
  pack    the program, its tests, models for them, sources of the probe; at most 60 MiB
  facts   what the card and its bus can do; what compiling the kernels takes; every format against the CPU; the peer is
          built meanwhile
  check   all tests on the card, sanitizers, perplexity
  bench   speed: kernels, models of random weights, with fewer experts on the card, beside the peer
  train   the trainer's bench, where the pack has a trainer for cards
  --emulated LIB    rehearses with this libcuda.so.1 of tests/cuda/build.sh; what needs a card is left out, and said

A failure stops nothing: the table NAME.md tells all, log.txt what was printed; the exit code is 1 if anything failed.
  OUT                    folder of the results [gpu-results]
  MOEWE_GPU_SECONDS      of a command; what would begin later is left out, and said [560]
  MOEWE_GPU_WORK         folder for what is unpacked, built and made [/tmp/moewe-gpu-UID]
  MOEWE_GPU_MODELS       of bench: SHAPE:FORMAT ... as tests/cuda/bench_model.py knows them
  MOEWE_PEER_BENCH       a llama-bench that is there already
pack alone:
  MOEWE_PEER_SOURCE      llama.cpp's source folder, of which it takes what a build for cards needs
  MOEWE_TRAIN_BINARY     a moewe-train that was built for cards
  MOEWE_PACK_BITS=0      leaves out what the emulated driver computes, with which `check` compares (minutes)
END
}
set -euo pipefail

# --- Results: a table as markdown, and everything that was printed.

# Lines of the table; shown at once, kept whatever happens next.
say() { printf '%s\n' "$*" | tee -a "$report"; }
section() { # TITLE COLUMNS
    local rule=${2//[^|]/-}
    say "" && say "## $1" && say "" && say "$2" && say "$rule"
}
left() { echo $((most_seconds - SECONDS)); }
skipped() { say "| $1 | SKIPPED | | $2 |"; }

# Runs a command with a limit of seconds, what it prints in "$output": step NAME LIMIT COMMAND...
# A line of the table says how it went; `quiet_step` writes none where it went well.
step() { run_step loud "$@"; }
quiet_step() { run_step quiet "$@"; }
run_step() {
    local way=$1 name=$2 limit=$3 start=$SECONDS code=0 note result seconds
    shift 3
    output=$(mktemp "$scratch/step.$(printf %05d "$start").XXXX")
    [ "$limit" -le "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 5 ]; then
        skipped "$name" "no time left"
        return 1
    fi
    printf '\n== %s: %s\n' "$name" "$*" >"$output.name"
    timeout -k 5 "$limit" "$@" >"$output" 2>&1 </dev/null || code=$?
    seconds=$((SECONDS - start))
    [ "$code" != 0 ] || [ "$way" = loud ] || return 0
    case $code in
    0) result=ok note="" ;;
    124 | 137) result="TOO LONG" note="more than $limit s" ;;
    *) result="FAILED ($code)" note=$(grep -v '^ *$' "$output" | tail -n 1 | tr '|' '/' | cut -c 1-160) || note="" ;;
    esac
    say "| $name | $result | $seconds | $note |"
    [ "$code" = 0 ] || echo "$name" >>"$scratch/failed"
    return "$code"
}
failed() { # NAME NOTE: something that ran and was wrong
    say "| $1 | WRONG | | $2 |"
    echo "$1" >>"$scratch/failed"
}

# What steps printed goes to the log, of which too much loses its middle.
gather() {
    local file log=$OUT/log.txt
    for file in "$scratch"/step.?????.????; do
        [ -e "$file" ] || continue
        cat "$file.name" "$file" >>"$log" 2>/dev/null || true
        rm -f "$file" "$file.name"
    done
    [ -e "$log" ] || return 0
    if [ "$(stat -c %s "$log")" -gt $((15 << 20)) ]; then
        { head -c $((7 << 20)) "$log" && printf '\n== cut here\n' && tail -c $((7 << 20)) "$log"; } >"$scratch/log"
        mv "$scratch/log" "$log"
    fi
}

finish() {
    local code=$?
    gather
    if [ -s "$scratch/failed" ]; then
        say "" && say "Failed: $(LC_ALL=C sort -u "$scratch/failed" | paste -sd ',' | sed 's/,/, /g')" && code=1
    elif [ "$code" = 0 ]; then
        say "" && say "Nothing failed."
    fi
    say "$SECONDS s in all."
    rm -rf "$scratch"
    exit "$code"
}

# --- The machine.

tool() { # a program of the toolkit
    local folder
    for folder in "${CUDA_HOME:-/usr/local/cuda}/bin" /usr/local/cuda/bin; do
        if [ -x "$folder/$1" ]; then echo "$folder/$1" && return; fi
    done
    command -v "$1"
}

unpack() { # ARCHIVE FOLDER; xz may be missing there
    if command -v xz >/dev/null; then
        tar -xJf "$1" -C "$2"
    else
        python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1" |
            tar -x -C "$2"
    fi
}

prepare() {
    local sum
    # In a checkout the pack lies beside; there it is all there is.
    pack=$PWD
    [ -e "$pack/programs.tar.xz" ] || pack=$PWD/gpu-pack
    [ -e "$pack/programs.tar.xz" ] || { echo "no gpu-pack: make one with tests/gpu.sh pack" >&2 && exit 2; }
    work=${MOEWE_GPU_WORK:-/tmp/moewe-gpu-$UID}
    bin=$work/bin
    mkdir -p "$bin" "$work/tmp" "$work/models" "$OUT"
    sum=$(cksum <"$pack/programs.tar.xz")
    if [ "$(cat "$bin/sum" 2>/dev/null)" != "$sum" ]; then
        unpack "$pack/programs.tar.xz" "$bin"
        echo "$sum" >"$bin/sum"
    fi
    export TMPDIR=$work/tmp HOME=$work/tmp RUST_MIN_STACK=16777216
    export MOEWE_BIN=$bin/moewe MOEWE_TEST_DATA=$pack MOEWE_CUDA_REAL=1
    unset MOEWE_CUDA_LIBRARY
    [ -z "$emulated" ] || export MOEWE_CUDA_LIBRARY=$emulated
    report=$OUT/$command.md
    echo "# $command" >"$report"
    [ -z "$emulated" ] || say "Rehearsed with an emulated driver: no card has said any of this."
    trap finish EXIT
}

clocks() {
    [ -z "$emulated" ] || return 0
    nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active \
        --format=csv,noheader 2>&1 | sed 's/^/clocks (never set), degrees, watts, reasons: /' | head -n 1 || true
}

# --- The peer, built where the card is.

peer_bench() {
    if [ -n "${MOEWE_PEER_BENCH:-}" ]; then
        echo "$MOEWE_PEER_BENCH"
    elif [ -x "$work/peer/build/bin/llama-bench" ]; then
        echo "$work/peer/build/bin/llama-bench"
    else
        return 1
    fi
}

build_peer() {
    local source=$work/peer nvcc capability generator="Unix Makefiles" flags
    if [ ! -e "$source/CMakeLists.txt" ]; then
        mkdir -p "$source"
        unpack "$pack/peer.tar.xz" "$source"
    fi
    nvcc=$(realpath "$(tool nvcc)")
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ') || true
    if command -v ninja >/dev/null; then generator=Ninja; fi
    flags=(-G "$generator" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
        -DLLAMA_BUILD_APP=OFF "-DCMAKE_CUDA_ARCHITECTURES=${capability:-native}" "-DCMAKE_CUDA_COMPILER=$nvcc")
    if ! cmake -S "$source" -B "$source/build" "${flags[@]}" "-DCUDAToolkit_ROOT=${nvcc%/bin/nvcc}"; then
        rm -rf "$source/build"
        whole_toolkit "${nvcc%/bin/nvcc}"
        cmake -S "$source" -B "$source/build" "${flags[@]}" "-DCUDAToolkit_ROOT=$work/toolkit" \
            "-DCMAKE_CUDA_FLAGS=-L$work/toolkit/lib64"
    fi
    nice cmake --build "$source/build" -j 12 --target llama-bench
}

# Where the toolkit lacks cuBLAS a Python package may have it: links to both, with the names that linkers look for.
whole_toolkit() {
    local toolkit=$work/toolkit places header file
    places=("${CUDA_HOME:-/usr/local/cuda}" /usr/local /opt /usr/lib /usr/include)
    header=$(find "${places[@]}" -name cublas_v2.h 2>/dev/null | head -n 1) || true
    [ -n "$header" ] || { echo "no cublas_v2.h anywhere" && return 1; }
    mkdir -p "$toolkit/include" "$toolkit/lib64"
    ln -sfn "$1/bin" "$toolkit/bin"
    cp -rs "$1/include/." "$toolkit/include/"
    cp -rsn "${header%/*}/." "$toolkit/include/" || true # some versions call what is there a failure
    for file in "$1"/lib64/lib* "$1"/lib/lib* "$1"/lib64/stubs/lib* "$1"/lib/stubs/lib* \
        $(find "${places[@]}" \( -name 'libcublas*.so*' -o -name libcuda.so.1 \) 2>/dev/null); do
        [ -f "$file" ] || continue
        ln -sf "$file" "$toolkit/lib64/${file##*/}"
        case $file in *.so.*) ln -sf "$file" "$toolkit/lib64/$(basename "${file%%.so.*}").so" ;; esac
    done
}

# --- facts

facts() {
    section "The machine" "| what | result | s | |"
    : >"$OUT/facts.jsonl"
    local peer=""
    if [ -n "$emulated" ]; then
        skipped "nvidia-smi, nvcc, the probe, the peer" "emulated"
    else
        step "nvidia-smi" 30 nvidia-smi -q && cat "$output" >"$OUT/nvidia-smi.txt" || true
        probe
        if [ ! -e "$pack/peer.tar.xz" ]; then
            skipped "the peer's build" "the pack has no source"
        else
            gather
            # Beside what follows; its line comes last.
            (report=$scratch/peer && step "the peer's build" 540 "$BASH" "$pack/tests/gpu.sh" build-peer || true) \
                >/dev/null &
            peer=$!
        fi
    fi
    format_facts
    if [ -n "$peer" ]; then
        wait "$peer" || true
        section "The peer" "| what | result | s | |"
        say "$(cat "$scratch/peer")"
    fi
}

probe() {
    local nvcc
    if ! nvcc=$(tool nvcc); then
        skipped "the probe" "no nvcc"
        return
    fi
    step "nvcc --version" 20 "$nvcc" --version || true
    step "building the probe" 60 "$nvcc" -std=c++17 -O3 -arch=native "$pack/tests/cuda/probe.cu" -o "$work/probe" ||
        return 0
    step "the probe" 180 "$work/probe" || true
    grep '^{' "$output" >>"$OUT/facts.jsonl" || true
    say "" && say '```' && say "$(cat "$OUT/facts.jsonl")" && say '```'
}

# A process for each format: one that spoils the card's context spoils nothing else.
format_facts() {
    local format ms rows panels result count=0
    section "Every format against the CPU, its kernels compiled by the driver without its cache" \
        "| format | result | compiled with the steps' in ms | rows | panels |"
    while read -r format; do
        result=ok
        quiet_step "format $format" 60 env CUDA_CACHE_DISABLE=1 "MOEWE_TEST_FORMAT=$format" "$bin/cuda" --nocapture \
            --ignored --exact formats || result=FAILED
        ms=$(sed -n 's/.* loaded in \([0-9]*\) ms$/\1/p' "$output" | head -n 1)
        rows=$(sed -n "s/^$format  *Rows \(.*\)/\1/p" "$output" | head -n 1)
        panels=$(sed -n "s/^$format  *Panels \(.*\)/\1/p" "$output" | head -n 1)
        say "| $format | $result | $ms | $rows | $panels |"
        [ -z "$ms" ] || printf '{"fact":"compile","format":"%s","ms":%s}\n' "$format" "$ms" >>"$OUT/facts.jsonl"
        count=$((count + 1))
    done <"$pack/formats"
    say "" && say "$count formats."
}

# --- check

check() {
    local name
    section "Tests" "| test | result | s | |"
    for name in $(comm -23 <(list_tests) <(list_tests --ignored)); do
        step "$name" 240 "$bin/cuda" --nocapture --exact "$name" || true
        # Lines of tests inside tests too.
        grep -ho '^bits .*' "$output" >>"$scratch/bits" || true
        if grep -q '^SKIPPED' "$output"; then say "| | $(grep -m 1 '^SKIPPED' "$output") | | |"; fi
    done
    step "the engine's unit tests of cuda" 60 "$bin/moewe_engine" cuda || true
    gather
    compare_bits
    perplexities
    sanitize
}

list_tests() { "$bin/cuda" --list --format terse "$@" 2>/dev/null | sed -n 's/: test$//p' | LC_ALL=C sort; }

compare_bits() {
    local same all
    if [ ! -s "$pack/bits" ]; then
        skipped "the bits of the emulated driver" "the pack has none"
        return
    fi
    LC_ALL=C sort -u "$scratch/bits" >"$scratch/found"
    all=$(wc -l <"$pack/bits")
    same=$(LC_ALL=C comm -12 "$pack/bits" "$scratch/found" | wc -l)
    if [ "$same" = "$all" ]; then
        say "| logits with the bits of the emulated driver | ok | | $same of $all |"
    else
        failed "logits with the bits of the emulated driver" "$same of $all; others:$(
            LC_ALL=C comm -23 "$pack/bits" "$scratch/found" | awk '{ printf " %s %s,", $2, $3 }'
        )"
    fi
}

# The embedded model on both: sums in another order, so not quite the same.
perplexities() {
    local text=$pack/tests/golden/text/de.txt flags=() percent=0.2 cpu card
    if [ -n "$emulated" ]; then
        head -c 300 "$text" >"$scratch/text"
        text=$scratch/text flags=(--context 32) percent=1
    fi
    step "perplexity on the CPU" 100 "$bin/moewe" perplexity -q --json -f "$text" --device cpu "${flags[@]}" || return 0
    cpu=$(figure perplexity "$output")
    step "perplexity on the card" 100 "$bin/moewe" perplexity -q --json -f "$text" --device cuda "${flags[@]}" ||
        return 0
    card=$(figure perplexity "$output")
    if awk -v a="$cpu" -v b="$card" -v most="$percent" \
        'BEGIN { d = (a - b) / a * 100; exit !(d < most && d > -most) }'; then
        say "| perplexity is the same within $percent % | ok | | CPU $cpu, card $card |"
    else
        failed "perplexity is the same within $percent %" "CPU $cpu, card $card"
    fi
}

figure() { sed -n "s/^ *\"$1\": \([^,]*\),\{0,1\}$/\1/p" "$2"; }

# Four tools beside each other: most of their time is the compiler's.
sanitize() {
    local sanitizer kind model=$work/models/sanitized.gguf run
    if [ -n "$emulated" ]; then
        skipped "compute-sanitizer" "emulated"
        return
    fi
    if ! sanitizer=$(tool compute-sanitizer); then
        skipped "compute-sanitizer" "it is not there"
        return
    fi
    step "a model for the sanitizers" 30 "$bin/moewe" convert "$pack/tests/golden/glm4moe" -o "$model" --format Q8_0 \
        --force -q || return 0
    for run in formats model; do
        for kind in memcheck racecheck initcheck synccheck; do
            (sanitize_one "$run" "$kind" || true) &
        done
        wait
        gather
    done
}

sanitize_one() { # formats|model TOOL
    local run=("$bin/cuda" --nocapture --ignored --exact formats)
    [ "$1" = formats ] || run=("$bin/moewe" logits "$model" -o "$scratch/$2.safetensors" --force -q --context 64
        --device cuda --tokens "3,1,4,1,5,9,2,6")
    step "$2 of $1" 150 "$sanitizer" --tool "$2" --error-exitcode 99 "${run[@]}"
}

# --- bench

bench() {
    local models=${MOEWE_GPU_MODELS:-} model file peer prompts=(512 64 2048) tokens=128 repetitions=2 written=()
    if [ -z "$models" ]; then
        models="qwen3moe:Q4_K olmoe:Q4_K qwen3moe:Q8_0 qwen3moe:Q2_K olmoe:Q8_0 olmoe:Q2_K"
        [ -z "$emulated" ] || models="tiny:Q4_K tiny:Q8_0"
    fi
    [ -z "$emulated" ] || prompts=(16 4) tokens=4
    peer=$(peer_bench) || peer=""
    section "Preparation" "| what | result | s | |"
    if [ -z "$peer" ] && [ -z "$emulated" ] && [ -e "$pack/peer.tar.xz" ]; then
        step "the peer's build" 300 "$BASH" "$pack/tests/gpu.sh" build-peer || true
        peer=$(peer_bench) || peer=""
    fi
    [ -n "$peer" ] || skipped "the peer" "there is no llama-bench"
    if ! command -v python3 >/dev/null; then
        skipped "models of random weights" "no python3; the model in the program is measured alone"
        models=""
    fi
    for model in $models; do
        file=$work/models/${model/:/-}.gguf
        quiet_step "writing $model" 60 python3 "$pack/tests/cuda/bench_model.py" "$file" --shape "${model%:*}" \
            --format "${model#*:}" || continue
        written+=("$model")
    done
    say "" && say "$(clocks)"
    local columns="prompt | it, prefill tok/s | peer | it/peer | it, decode tok/s | peer | it/peer |"
    section "All experts on the card" "| model | $columns"
    [ ${#written[@]} != 0 ] || speed "the model in the program" "" "" 512
    for model in "${written[@]}"; do
        speed "$model" "$work/models/${model/:/-}.gguf" "$peer" "${prompts[0]}"
    done
    for model in "${written[@]:0:2}"; do hybrid "$model" "$work/models/${model/:/-}.gguf"; done
    kernel_speeds
    section "Other prompts" "| model | $columns"
    for model in "${written[@]}"; do
        for prompt in "${prompts[@]:1}"; do
            speed "$model" "$work/models/${model/:/-}.gguf" "$peer" "$prompt" no-decode
        done
    done
    say "" && say "$(clocks)"
    profile "${written[0]:-}"
    rm -f "$work/models/"*.gguf
}

# One line: NAME FILE PEER PROMPT [no-decode]. The program takes turns with the peer.
speed() {
    local name=$1 file=$2 peer=$3 prompt=$4 decode=$tokens run
    [ -z "${5:-}" ] || decode=0
    run=("$bin/moewe" bench)
    [ -z "$file" ] || run+=("$file")
    run+=(--device cuda -p "$prompt" -n "$decode" -r "$repetitions" --json)
    [ -z "$peer" ] || run+=(--peer "$peer -ngl 99 -fa 1")
    quiet_step "$name at $prompt" 100 "${run[@]}" || return 0
    say "| $name | $prompt | $(speed_cells prefill) | $(speed_cells decode) |"
}

# Own, peer's and ratio, of what the last step printed.
speed_cells() {
    local speeds ratios
    mapfile -t speeds < <(figure "$1_tokens_per_second" "$output" | cut -c 1-8)
    mapfile -t ratios < <(figure "$1_ratio" "$output" | cut -c 1-5)
    printf '%s | %s | %s' "${speeds[0]:--}" "${speeds[1]:--}" "${ratios[1]:--}" | sed 's/null/-/g'
}

# With a part of the experts on the card: NAME FILE. The plan of the whole tells how much that is.
hybrid() {
    local name=$1 file=$2 share vram slots layers plan prompt=${prompts[0]}
    section "$name, not all experts on the card" "| experts | $columns"
    quiet_step "$name: its plan" 60 "$bin/moewe" bench "$file" --device cuda -c "$prompt" -p "$prompt" -n 0 -r 1 ||
        return 0
    plan=$(grep -m 1 'card: ' "$output") || { failed "$name: its plan" "no line of it" && return 0; }
    for share in 50 25 75; do
        vram=$(vram_of "$share" <<<"$plan")
        quiet_step "$name at $share %" 100 "$bin/moewe" bench "$file" --device cuda --vram "$vram" -c "$prompt" \
            -p "$prompt" -n "$tokens" -r "$repetitions" --json || continue
        slots=$(sed -n 's/.* for \([0-9]* of [0-9]*\) experts.*/\1/p' "$output" | head -n 1)
        say "| $share %: ${slots:-?} | $prompt | $(speed_cells prefill) | $(speed_cells decode) |"
    done
    quiet_step "$name on the CPU" 100 "$bin/moewe" bench "$file" --device cpu -c "$prompt" -p "$prompt" -n "$tokens" \
        -r 1 --json && say "| none: the CPU alone | $prompt | $(speed_cells prefill) | $(speed_cells decode) |"
    [ -n "$peer" ] || return 0
    layers=$(layers_of "$name")
    vram=$(vram_of 50 <<<"$plan")
    quiet_step "$name at 50 %, in turns" 150 "$bin/moewe" bench "$file" --device cuda --vram "$vram" -c "$prompt" \
        -p "$prompt" -n "$tokens" -r "$repetitions" --json --peer "$peer -ngl 99 -fa 1 -ncmoe $((layers / 2))" ||
        return 0
    say "| 50 %, peer -ncmoe $((layers / 2)) | $prompt | $(speed_cells prefill) | $(speed_cells decode) |"
}

# As tests/cuda/bench_model.py has them.
layers_of() {
    case ${1%:*} in
    olmoe) echo 16 ;;
    qwen3moe) echo 24 ;;
    qwen3-30b-a3b) echo 48 ;;
    mixtral) echo 10 ;;
    *) echo 2 ;;
    esac
}

# Kibibytes for everything but experts, and for so many percent of those: of a line "card: 1.2 GiB dense weights, ...".
vram_of() {
    awk -v share="$1" '
        function kib(number, unit) {
            return number * (unit == "GiB" ? 1048576 : unit == "MiB" ? 1024 : unit == "KiB" ? 1 : 1 / 1024)
        }
        {
            sub(/.*card: /, "")
            count = split($0, parts, ", ")
            for (i = 1; i <= count; i++) {
                split(parts[i], words, " ")
                all += kib(words[1], words[2]) * (parts[i] ~ / experts/ ? share / 100 : 1)
            }
            printf "%dK", all + 1
        }'
}

kernel_speeds() {
    local settings=()
    section "Products, each format" "| format | result | s | |"
    [ -z "$emulated" ] || settings=(MOEWE_SPEED_MB=0 MOEWE_TEST_FORMAT=Q4_K)
    step "products" 150 env "${settings[@]}" "$bin/cuda" --nocapture --ignored --exact speeds::speeds || true
    say "" && say "$(grep '^|' "$output" || true)"
}

# The five kernels that take most of a short text, each once with all that the profiler knows.
profile() {
    local ncu file=$work/models/${1/:/-}.gguf run us kernel
    section "Kernels by time, of a step of 16 rows" "| kernel | us in all | | |"
    if [ -n "$emulated" ] || [ -z "$1" ] || ! ncu=$(tool ncu); then
        skipped "ncu" "emulated, no model, or it is not there"
        return
    fi
    run=("$bin/moewe" logits "$file" -o "$scratch/profiled" --force -q --context 64 --device cuda
        --tokens "3,1,4,1,5,9,2,6,5,3,5,8,9,7,9,3")
    # Without the first flag it would set the clocks.
    quiet_step "ncu" 120 "$ncu" --clock-control none --csv --metrics gpu__time_duration.sum "${run[@]}" || return 0
    awk -F '","' '/gpu__time_duration/ { gsub(/[",]/, "", $NF); ns[$5] += $NF }
        END { for (name in ns) printf "%.1f %s\n", ns[name] / 1000, name }' "$output" |
        sort -rn | head -n 5 >"$scratch/slow"
    while read -r us kernel; do
        say "| $kernel | $us | | |"
        quiet_step "ncu $kernel" 60 "$ncu" --clock-control none --set full -c 1 -k "regex:^${kernel%%(*}\$" \
            "${run[@]}" || true
    done <"$scratch/slow"
}

# --- train

train() {
    local device=cuda
    section "Training" "| what | result | s | |"
    if [ ! -x "$bin/moewe-train" ]; then
        skipped "moewe-train bench" "the pack has no trainer for cards; MOEWE_TRAIN_BINARY names one to pack"
        return
    fi
    [ -z "$emulated" ] || device=cpu
    step "moewe-train bench" 300 "$bin/moewe-train" bench --device "$device" || true
    say "" && say '```' && say "$(cat "$output")" && say '```'
}

# ---

command=${1:-}
shift || true
emulated=""
if [ "${1:-}" = --emulated ]; then
    emulated=$(realpath -e "${2:?the emulated library}")
    shift 2
fi
[ $# = 0 ] || { usage >&2 && exit 2; }
OUT=$(realpath -m "${OUT:-gpu-results}")
most_seconds=${MOEWE_GPU_SECONDS:-560}
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case $command in
pack)
    # shellcheck source=tests/cuda/pack.sh
    . tests/cuda/pack.sh
    pack_all "$scratch"
    ;;
facts | check | bench | train)
    prepare # on a line of its own: in a list its failures would be ignored
    "$command"
    ;;
build-peer) # of facts and bench
    pack=$PWD work=${MOEWE_GPU_WORK:-/tmp/moewe-gpu-$UID}
    build_peer
    ;;
-h | --help) usage ;;
*) usage >&2 && exit 2 ;;
esac
