// Products of one format with the inputs of many rows: compiled once per format of codes, which the macro FORMAT names.
#include "prompts.cuh"

/// A matrix with tiles of `width` inputs, or with a list the matrices of chosen experts: `list` and `slots` are as
/// `sort_slots` makes them, `used` slots share an input. See `prompts::multiply`. PROMPTS_SHARED(FORMAT).
KERNEL void BOUNDS(128, 4)
    OF_FORMAT(prompt_products)(const uint8_t *bytes, const uint64_t *addresses, int which, const int *list,
                               const int *slots, int used, int rows, int cols, int is_panels, const uint64_t *points,
                               const int8_t *codes, const float *extras, int inputs, const float *bias, float *out,
                               int out_width, int at, int width, int blocks) {
    SHARED_MEMORY(shared);
    prompts::multiply<FORMAT>({bytes, rows, cols, is_panels, points}, {nullptr, codes, extras}, inputs,
                              {list, slots, addresses, which, used}, {bias, out, out_width, at}, width, blocks, shared);
}
