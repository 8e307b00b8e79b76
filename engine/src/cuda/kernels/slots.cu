// The slots of rows in the order of the experts that they have chosen, and tiles of those of one expert.
//
// A warp has an expert and looks through all slots: each finds its own places, and they are the same every time.
#include "prompts.cuh"

namespace slots {

constexpr int WARPS = products::WARPS, AHEAD = 8;

DEVICE int expert() { return block_x() * WARPS + thread_x() / 32; }

/// Calls `found(slot, place)` by the lane of each slot that has chosen an expert, where `place` counts them; how many
/// they are, in all lanes.
template <class Found> DEVICE int find(const int *choices, int slots, int expert, Found found) {
    int lane = thread_x() & 31, count = 0;
    for (int first = lane; first - lane < slots; first += 32 * AHEAD) {
        int chosen[AHEAD]; // all are on their way before one is needed
        UNROLL for (int i = 0; i < AHEAD; i++) {
            int slot = first + i * 32;
            chosen[i] = slot < slots ? choices[slot] : -1;
        }
        UNROLL for (int i = 0; i < AHEAD; i++) {
            uint32_t those = votes(chosen[i] == expert);
            if (chosen[i] == expert) found(first + i * 32, count + count_bits(those & ((1u << lane) - 1)));
            count += count_bits(those);
        }
    }
    return count;
}

/// A sum over the warp, in all lanes.
DEVICE int warp_sum(int value) {
    for (int mask = 16; mask > 0; mask >>= 1)
        value += float_to_bits(shuffle_xor(bits_to_float(value), mask));
    return value;
}

DEVICE int tiles(int count) { return (count + prompts::INPUTS - 1) / prompts::INPUTS; }

} // namespace slots

/// How many slots have chosen each expert. A block has four experts.
KERNEL void BOUNDS(128, 8) count_slots(const int *choices, int slots, int experts, int *counts) {
    int expert = slots::expert();
    if (expert >= experts) return; // the whole warp
    int count = slots::find(choices, slots, expert, [](int, int) {});
    if ((thread_x() & 31) == 0) counts[expert] = count;
}

/// The slots of the first expert in their order, then those of the next; and their tiles: how many there are, then of each
/// the expert, where its slots begin, and how many they are. A block has four experts.
KERNEL void BOUNDS(128, 8)
    sort_slots(const int *choices, int slots, int experts, const int *counts, int *list, int *sorted) {
    int expert = slots::expert(), lane = thread_x() & 31, before = 0, tiles_before = 0;
    if (expert >= experts) return; // the whole warp
    for (int i = lane; i < expert; i += 32) before += counts[i], tiles_before += slots::tiles(counts[i]);
    before = slots::warp_sum(before), tiles_before = slots::warp_sum(tiles_before);
    int count = slots::find(choices, slots, expert, [&](int slot, int place) { sorted[before + place] = slot; });
    for (int i = lane; i < slots::tiles(count); i += 32) {
        int *tile = list + 1 + (tiles_before + i) * 3, first = i * prompts::INPUTS;
        tile[0] = expert;
        tile[1] = before + first;
        tile[2] = count - first < prompts::INPUTS ? count - first : prompts::INPUTS;
    }
    if (lane == 0 && expert == experts - 1) *list = tiles_before + slots::tiles(count);
}
