#!/usr/bin/env bash
# Makes engine/src/cuda/ptx/*.ptx of the kernels: CUDA_HOME=/path/to/toolkit engine/src/cuda/kernels/ptx.sh [FOLDER]
# The toolkit needs bin/nvcc (13 is known to work). The same sources give the same bytes.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${CUDA_HOME:?names a CUDA toolkit}/bin/nvcc
out=${1:-../ptx}
mkdir -p "$out"
# A change of any source makes all files stale: tests/tidy.rs compares this sum.
sum=$(LC_ALL=C; cat ./*.h ./*.cuh ./*.cu | cksum)
formats="F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S
    IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4"

compile() { # source, name of the result, further arguments
    local source=$1 name=$2
    shift 2
    "$nvcc" -ptx -arch=compute_80 -std=c++17 -O3 -fmad=false "$@" "$source" -o "$out/$name.tmp"
    # Comments name the compiler's build; version 7.8 is what the drivers of 2022 take, the first that know an RTX 4090. They
    # do not know which bytes of a load are used, which is of no consequence.
    { echo "// moewe kernels $sum"; sed -e '/^\/\//d' -e '/\.pragma "used_bytes_mask/d' -e 's/^\.version .*/.version 7.8/' "$out/$name.tmp"; } >"$out/$name.ptx"
    rm "$out/$name.tmp"
}

compile steps.cu steps
compile attention.cu attention
compile recurrence.cu recurrence
compile slots.cu slots
for format in $formats; do
    compile products.cu "products_$format" "-DFORMAT=$format"
    case $format in
    F32 | F16 | BF16) more=-DFORMAT_OF_FLOATS ;;
    *) more=-DFORMAT_OF_CODES && compile prompts.cu "prompts_$format" "-DFORMAT=$format" ;;
    esac
    compile decode.cu "decode_$format" "-DFORMAT=$format" "$more"
done
