#!/usr/bin/env bash
# Makes engine/src/cuda/ptx/figures.md, what a card needs for each kernel, and demands that none of them keeps
# registers or arrays in memory: CUDA_HOME=/path/to/toolkit engine/src/cuda/kernels/figures.sh [FILE]
# The toolkit needs bin/ptxas and bin/nvdisasm (13 is known to work; another may count other registers).
set -euo pipefail
cd "$(dirname "$0")"
ptxas=${CUDA_HOME:?names a CUDA toolkit}/bin/ptxas
nvdisasm=$CUDA_HOME/bin/nvdisasm
out=${1:-../ptx/figures.md}
archs="80 86 89 90 120"
said=$(mktemp)
cubin=$(mktemp)
trap 'rm -f "$said" "$cubin" "$out.tmp"' EXIT

# Bytes of weights for each instruction of a warp in the main loop of row_products: the innermost loop that multiplies
# most weights an instruction; eight dot products of four are 32 columns of 32 rows.
bytes_per_instruction() { # FORMAT, BYTES of 32 rows of 32 columns
    "$ptxas" -arch=sm_89 "../ptx/decode_$1.ptx" -o "$cubin"
    "$nvdisasm" -c "$cubin" | awk -v name="$1" -v bytes="$2" '
        /^\.text\./ { is_it = $0 ~ "^\\.text\\.row_products_" name ":" }
        !is_it { next }
        /^\.L_x_[0-9]+:/ { sub(/:.*/, ""); label[$0] = count }
        /\/\*[0-9a-f]+\*\/ .*;/ && !/^ *\.|^\// {
            count++
            products[count] = products[count - 1] + ($0 ~ / IDP/)
            if (match($0, /BRA `\(\.L_x_[0-9]+/)) {
                target = substr($0, RSTART + 6, RLENGTH - 6)
                if (target in label && label[target] < count) {
                    start = label[target]
                    if (start >= inner) {
                        share = (products[count] - products[start]) / 8 * bytes / (count - start)
                        if (share > best) best = share
                    }
                    inner = count
                }
            }
        }
        END { if (!best) exit 1; printf "| %s | %.1f |\n", name, best }'
}

# Instructions of a warp for each multiplication of tensor cores in the innermost loop of prompt_products that has most of
# them, and how many of these are additions and products of floats.
instructions_per_multiplication() { # FORMAT
    "$ptxas" -arch=sm_89 "../ptx/prompts_$1.ptx" -o "$cubin"
    "$nvdisasm" -c "$cubin" | awk -v name="$1" '
        /^\.L_x_[0-9]+:/ { sub(/:.*/, ""); label[$0] = count }
        /\/\*[0-9a-f]+\*\/ .*;/ && !/^ *\.|^\// {
            count++
            multiplied[count] = multiplied[count - 1] + ($0 ~ / IMMA/)
            floats[count] = floats[count - 1] + ($0 ~ / F(ADD|MUL|FMA) /)
            if (match($0, / IMMA\.[0-9]+/)) columns = substr($0, RSTART + 9, 2)
            if (match($0, /BRA `\(\.L_x_[0-9]+/)) {
                target = substr($0, RSTART + 6, RLENGTH - 6)
                if (target in label && label[target] < count) {
                    start = label[target]
                    all = multiplied[count] - multiplied[start]
                    if (start >= inner && all > most) {
                        most = all
                        line = sprintf("| %s | 16 x 8 x %d | %.1f | %.1f |", name, columns, (count - start) / all,
                                       (floats[count] - floats[start]) / all)
                    }
                    inner = count
                }
            }
        }
        END { if (!most) exit 1; print line }'
}

for file in ../ptx/*.ptx; do
    for arch in $archs; do
        "$ptxas" -v -arch="sm_$arch" "$file" -o /dev/null >>"$said" 2>&1 || { grep -E "error|fatal" "$said" >&2 && exit 1; }
    done
done

{
    head -1 ../ptx/steps.ptx # the sum of the sources, as in every PTX file; tests/tidy.rs compares it
    cat <<'TEXT'

# What a card needs for each kernel

By `kernels/figures.sh`: registers of a thread for each architecture, as ptxas counts them, and bytes of shared
memory that are the kernel's own; launches name more (`*_SHARED` in the sources). No kernel has a stack frame or
spills. Four blocks of 128 threads fit on a multiprocessor with up to 128 registers, eight with up to 64.

TEXT
    awk -v archs="$archs" '
        /Compiling entry function/ {
            split($0, quoted, "\x27")
            kernel = quoted[2]; arch = quoted[4]
            if (!(kernel in shared)) { kernels[++count] = kernel; shared[kernel] = 0 }
        }
        /bytes stack frame/ {
            lines++
            if ($0 !~ /^ *0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/) {
                printf "%s on %s:%s\n", kernel, arch, $0 > "/dev/stderr"
                failed = 1
            }
        }
        /Used [0-9]+ registers/ {
            match($0, /Used [0-9]+/)
            registers[kernel, arch] = substr($0, RSTART + 5, RLENGTH - 5)
            if (match($0, /[0-9]+ bytes smem/)) shared[kernel] = substr($0, RSTART, RLENGTH) + 0
        }
        END {
            columns = split(archs, names, " ")
            printf "| kernel |"
            for (i = 1; i <= columns; i++) printf " sm_%s |", names[i]
            printf " shared |\n|---|"
            for (i = 1; i <= columns; i++) printf "---:|"
            print "---:|"
            for (k = 1; k <= count; k++) {
                printf "| %s |", kernels[k]
                for (i = 1; i <= columns; i++) {
                    if (!((kernels[k], "sm_" names[i]) in registers)) {
                        printf "nothing of %s on sm_%s\n", kernels[k], names[i] > "/dev/stderr"
                        failed = 1
                    }
                    printf " %s |", registers[kernels[k], "sm_" names[i]]
                }
                printf " %s |\n", shared[kernels[k]]
            }
            if (!count || lines != count * columns) {
                print "ptxas says something else than is read here" > "/dev/stderr"
                failed = 1
            }
            exit failed
        }' "$said"
    cat <<'TEXT'

## Bytes of weights for each instruction

Of a warp, in the main loop of `row_products` on sm_89. An RTX 4090 starts 1,280 thousand million of them a second (128
multiprocessors, four each, 2.5 GHz) and reads about 920 GB/s, so that from 0.7 bytes on memory is what limits it.

| format | bytes |
|---|---:|
TEXT
    # Bytes of a block times 1024, by its weights.
    while read -r format bytes len; do
        bytes_per_instruction "$format" $((1024 * bytes / len))
    done < <(sed -nE 's/^struct (\w+) : BlockFormat<([0-9]+), ([0-9]+),.*/\1 \3 \2/p' formats.cuh)
    cat <<'TEXT'

## Instructions for each multiplication of tensor cores

Of a warp, where `prompt_products` multiplies a group of 32 columns with 64 inputs, on sm_89; and those among them that add
or multiply floats. By its data sheet an RTX 4090 takes 16 cycles for one of 16 x 8 x 32 and half of that for one of
16 x 8 x 16, and it begins an instruction in each.

| format | multiplication | instructions | of floats |
|---|---|---:|---:|
TEXT
    while read -r format; do
        instructions_per_multiplication "$format"
    done < <(sed -nE 's/^struct (\w+) : BlockFormat<.*/\1/p' formats.cuh)
} >"$out.tmp"
mv "$out.tmp" "$out"
