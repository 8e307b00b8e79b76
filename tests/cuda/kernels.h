// The kernels that the emulated driver finds by name: sources, and the list of what is in them.
//
// A kernel is an entry of STEP_KERNELS, or of FORMAT_KERNELS, which every format has, or of CODE_KERNELS, which those of
// codes have. A format is a few lines of includes and one of KERNELS.
#pragma once
#include "steps.cu"
#include "attention.cu"
#include "recurrence.cu"
#include "slots.cu"

#define FORMAT F32
#define FORMAT_OF_FLOATS
#include "products.cu"
#include "decode.cu"
#undef FORMAT_OF_FLOATS
#undef FORMAT
#define FORMAT F16
#define FORMAT_OF_FLOATS
#include "products.cu"
#include "decode.cu"
#undef FORMAT_OF_FLOATS
#undef FORMAT
#define FORMAT BF16
#define FORMAT_OF_FLOATS
#include "products.cu"
#include "decode.cu"
#undef FORMAT_OF_FLOATS
#undef FORMAT
#define FORMAT Q4_0
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q4_1
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q5_0
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q5_1
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q8_0
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q2_K
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q3_K
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q4_K
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q5_K
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT Q6_K
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ1_S
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ1_M
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ2_XXS
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ2_XS
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ2_S
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ3_XXS
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ3_S
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ4_NL
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT IQ4_XS
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT TQ1_0
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT TQ2_0
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT
#define FORMAT MXFP4
#include "products.cu"
#include "decode.cu"
#include "prompts.cu"
#undef FORMAT

#define STEP_KERNELS(K) \
    K(norm_rows) K(norm_span) K(copy_span) K(multiply_span) K(rope) K(add) K(scale) K(cap) K(clear) K(select_rows) \
    K(activate) K(activate_slots) K(weigh_by_sigmoid) K(quantize) K(route) K(route_capacity) K(combine) \
    K(strand_tops) K(best) K(add_low_rank) K(add_low_rank_slots) \
    K(convolve) K(scan) K(count_slots) K(sort_slots) \
    K(store) K(heads) K(attention)
#define FORMAT_KERNELS(K, format) \
    K(embed_##format) K(products_##format) K(expert_products_##format) \
    K(row_products_##format) K(head_products_##format) K(gate_up_##format) K(down_##format)
#define CODE_KERNELS(K, format) FORMAT_KERNELS(K, format) K(prompt_products_##format)
#define KERNELS(K) \
    STEP_KERNELS(K) \
    K(norm_route_F32) K(norm_route_F16) K(norm_route_BF16) \
    FORMAT_KERNELS(K, F32) \
    FORMAT_KERNELS(K, F16) \
    FORMAT_KERNELS(K, BF16) \
    CODE_KERNELS(K, Q4_0) \
    CODE_KERNELS(K, Q4_1) \
    CODE_KERNELS(K, Q5_0) \
    CODE_KERNELS(K, Q5_1) \
    CODE_KERNELS(K, Q8_0) \
    CODE_KERNELS(K, Q2_K) \
    CODE_KERNELS(K, Q3_K) \
    CODE_KERNELS(K, Q4_K) \
    CODE_KERNELS(K, Q5_K) \
    CODE_KERNELS(K, Q6_K) \
    CODE_KERNELS(K, IQ1_S) \
    CODE_KERNELS(K, IQ1_M) \
    CODE_KERNELS(K, IQ2_XXS) \
    CODE_KERNELS(K, IQ2_XS) \
    CODE_KERNELS(K, IQ2_S) \
    CODE_KERNELS(K, IQ3_XXS) \
    CODE_KERNELS(K, IQ3_S) \
    CODE_KERNELS(K, IQ4_NL) \
    CODE_KERNELS(K, IQ4_XS) \
    CODE_KERNELS(K, TQ1_0) \
    CODE_KERNELS(K, TQ2_0) \
    CODE_KERNELS(K, MXFP4)
