#!/usr/bin/env bash
# Makes engine/src/cuda/ptx/figures.md, what a card needs for each kernel, and demands that none of them keeps
# registers or arrays in memory: CUDA_HOME=/path/to/toolkit engine/src/cuda/kernels/figures.sh [FILE]
# The toolkit needs bin/ptxas (13 is known to work; another may count other registers).
set -euo pipefail
cd "$(dirname "$0")"
ptxas=${CUDA_HOME:?names a CUDA toolkit}/bin/ptxas
out=${1:-../ptx/figures.md}
archs="80 86 89 90 120"
said=$(mktemp)
trap 'rm -f "$said" "$out.tmp"' EXIT

for file in ../ptx/*.ptx; do
    for arch in $archs; do
        "$ptxas" -v -arch="sm_$arch" "$file" -o /dev/null >>"$said" 2>&1 || { cat "$said" >&2 && exit 1; }
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
} >"$out.tmp"
mv "$out.tmp" "$out"
