#!/usr/bin/env bash
# Instructions of the products of matrices, counted under an emulator: what a machine that is not here can be judged by.
#   tests/cross/counts.sh PROGRAM [--write]
# PROGRAM is the engine's unit tests for 64-bit ARM. Compared with counts.tsv: more by a tenth is a failure, and
# `--write` makes the file anew.
#   tests/cross/counts.sh PROGRAM --loop FORMAT ISA INPUTS
# prints the instructions of the loop that takes most of it instead, as words.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
shift
kept=$here/counts.tsv
multiplications=$((256 * 1024)) # of one input: `ROWS` times `COLS` in engine/src/eval/tests_counts.rs
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# traced FORMAT ISA INPUTS: what awk makes of the trace.
traced() {
    MOEWE_COUNT_FORMAT=$1 MOEWE_COUNT_ISA=$2 MOEWE_COUNT_INPUTS=$3 qemu-aarch64-static -cpu max -L /usr/aarch64-linux-gnu \
        -d in_asm,exec,nochain -D "$folder/trace" "$program" --quiet --test-threads=1 --ignored a_product_between_marks \
        >"$folder/said" 2>&1 || { cat "$folder/said" >&2 && return 1; }
    shift 3
    awk -v mark=12tests_counts4mark "$@" -f "$here/counts.awk" "$folder/trace"
}

count_all() {
    local format isa inputs instructions
    printf '# Instructions per multiplication of a weight with an input, of one input and of many; tests/cross/counts.sh --write\n'
    printf 'format\tisa\tinputs\tinstructions\n'
    for format in Q4_0 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4; do
        for isa in neondot i8mm; do
            for inputs in 1 64; do
                instructions=$(traced "$format" "$isa" "$inputs")
                awk -v n="$instructions" -v all="$((multiplications * inputs))" -v OFS='\t' -v a="$format" -v b="$isa" \
                    -v c="$inputs" 'BEGIN { print a, b, c, sprintf("%.4f", n / all) }'
            done
        done
    done
}

# compared KEPT FOUND: every line of both, with what is wrong.
compared() {
    awk -F '\t' '
        /^#/ || $1 == "format" { next }
        { at = $1 "\t" $2 "\t" $3 }
        NR == FNR { kept[at] = $4; next }
        !(at in kept) { print at "\t" $4, "is not in the file"; wrong = 1; next }
        { says = $4 > kept[at] * 1.1 ? "MORE THAN A TENTH ABOVE" : "" ; wrong += says != ""
          print at "\t" $4 "\tkept " kept[at], says; delete kept[at] }
        END { for (at in kept) { print at, "was not counted"; wrong = 1 } exit wrong > 0 }' "$1" "$2"
}

case ${1:-} in
--loop) traced "$2" "$3" "$4" -v loop=1 ;;
--write) count_all | tee "$folder/found" && mv "$folder/found" "$kept" ;;
'')
    count_all >"$folder/found"
    compared "$kept" "$folder/found"
    ;;
*) printf 'what is %s?\n' "$1" >&2 && exit 2 ;;
esac
