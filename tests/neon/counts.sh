#!/bin/bash
# Counts the instructions that NEON's kernels take, emulated by qemu, and compares them with counts.tsv beside it: more
# than a tenth above one of its figures fails. `counts.sh --write` writes the figures anew.
#
# Needs qemu-aarch64-static, aarch64-linux-gnu-gcc and the target aarch64-unknown-linux-gnu. Counts do not depend on the
# machine, other than times; a job is computed once and five times, and four of them are counted.
set -euo pipefail
cd "$(dirname "$0")/../.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
export CARGO_PROFILE_DEV_OPT_LEVEL=2
test=kernels::tests::a_job_again_and_again
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

cargo test --quiet --target aarch64-unknown-linux-gnu -p moewe-engine --lib --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' > "$folder/program"
program=$(tail -n 1 "$folder/program")

# instructions ISA FORMAT INPUTS TIMES: of the whole program
instructions() {
    mkfifo "$folder/log"
    wc -l < "$folder/log" > "$folder/lines" &
    MOEWE_COUNT_ISA=$1 MOEWE_COUNT_FORMAT=$2 MOEWE_COUNT_INPUTS=$3 MOEWE_COUNT_TIMES=$4 \
        qemu-aarch64-static -cpu max -L /usr/aarch64-linux-gnu -singlestep -d exec,nochain -D "$folder/log" \
        "$program" --exact "$test" --ignored --test-threads 1 > "$folder/output" || { cat "$folder/output" >&2; exit 1; }
    wait $!
    rm "$folder/log"
    cat "$folder/lines"
}

# Sixteen rows of 4096 weights.
while read -r isa format inputs figure; do
    once=$(instructions "$isa" "$format" "$inputs" 1)
    often=$(instructions "$isa" "$format" "$inputs" 5)
    found=$(awk "BEGIN { printf \"%.4f\", ($often - $once) / 4 / (16 * 4096 * $inputs) }")
    printf '%s\t%s\t%s\t%s\n' "$isa" "$format" "$inputs" "$found" | tee -a "$folder/found"
    if [ "${1:-}" != --write ] && awk "BEGIN { exit !($found > 1.1 * $figure) }"; then
        echo "$format on $isa with $inputs inputs: $found instructions per product, a tenth above $figure" >&2
        failed=1
    fi
done < tests/neon/counts.tsv
[ "${1:-}" != --write ] || cp "$folder/found" tests/neon/counts.tsv
exit "${failed:-0}"
