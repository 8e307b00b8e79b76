// Products of many rows against those of single ones, to the bit, and the order of slots that those of experts need.
// Included by kernels.cpp, which tests what they are compared with by itself.
#pragma once

/// A format's kernel, and bytes of shared memory.
struct Prompting {
    void (*multiply)(const uint8_t *, const uint64_t *, int, const int *, const int *, int, int, int, int,
                     const uint64_t *, const int8_t *, const float *, int, const float *, float *, int, int, int, int);
    size_t shared;
};

/// Slots by experts, as kernels sort them.
struct Sorted {
    std::vector<int> list, slots;
};

static Sorted sort_by_expert(const std::vector<int> &choices, int experts) {
    const int count = (int)choices.size(), blocks = (experts + 3) / 4;
    // No more tiles than this.
    Sorted sorted{std::vector<int>(1 + 3 * std::min(count, experts + count / 64), 77), std::vector<int>(count, 77)};
    Sorted want = sorted;
    std::vector<int> counts(experts, 77);
    RUN(count_slots, blocks, 1, 0, choices.data(), count, experts, counts.data());
    RUN(sort_slots, blocks, 1, 0, choices.data(), count, experts, counts.data(), sorted.list.data(),
        sorted.slots.data());
    int place = 0, tiles = 0;
    for (int expert = 0; expert < experts; expert++) {
        const int first = place;
        for (int slot = 0; slot < count; slot++)
            if (choices[slot] == expert) want.slots[place++] = slot;
        expect(counts[expert] == place - first, "count_slots");
        for (int at = first; at < place; at += 64, tiles++) {
            const int tile[] = {expert, at, std::min(place - at, 64)};
            std::copy_n(tile, 3, &want.list[1 + tiles * 3]);
        }
    }
    want.list[0] = tiles;
    same("sort_slots, tiles", sorted.list, want.list);
    same("sort_slots, slots", sorted.slots, want.slots);
    return sorted;
}

/// Slots of rows that choose among experts, of which the first has none and the last has most.
static std::vector<int> chosen(int rows, int used, int experts) {
    std::vector<int> choices(rows * used);
    for (int &choice : choices) choice = below(5) ? below(4) ? experts - 1 : 1 + below(experts - 1) : -1;
    return choices;
}

static void sorting() {
    for (auto [rows, used, experts] : {std::array{1, 1, 1}, {9, 2, 4}, {70, 8, 33}, {300, 4, 130}, {128, 3, 2}}) {
        auto choices = chosen(rows, used, std::max(experts, 2));
        if (experts == 1) choices = {0};
        sort_by_expert(choices, experts);
    }
    sort_by_expert(std::vector<int>(40, -1), 6);
    sort_by_expert(std::vector<int>(64, 5), 6);
}

/// Where a load or a store of a warp's threads takes one turn: sixteen bytes of eight rows, eight bytes of four lanes for
/// each of four rows.
static void places() {
    for (int first = 0; first < 64; first += 8)
        for (int piece = 0; piece < 4; piece++) {
            std::set<int> stored, loaded[2];
            for (int row = first; row < first + 8; row++) {
                stored.insert(prompts::place(row, piece) % 128);
                for (int i = 0; i < 2; i++) loaded[row / 4 % 2].insert(prompts::place(row, piece / 2 * 2 + i) % 128);
            }
            expect(stored.size() == 8 && loaded[0].size() == 8 && loaded[1].size() == 8, "banks of a tile");
        }
    std::set<int> all;
    for (int i = 0; i < 256; i++) all.insert(prompts::place(i / 4, i % 4));
    expect(all.size() == 256 && *all.rbegin() == 64 * 64 - 16, "places of a tile");
}

static void prompting(const Format &format, const Prompting &kernel) {
    // Rows that fill tiles, panels, or neither; an odd number of groups where blocks allow it.
    const int shapes[][2] = {{150, 96}, {64, 160}, {77, 32}}, *shape = shapes[below(3)];
    const int rows = shape[0], cols = format.len == 32 ? shape[1] : shape[1] > 32 ? 512 : 256;
    const int most = 70, width = rows + 7, at = 4;
    const uint64_t *none = nullptr;
    const float *no_values = nullptr;
    std::vector<uint64_t> points(format.points);
    for (uint64_t &point : points) point = ((uint64_t)source() << 32 | source()) & 0x7f7f7f7f7f7f7f7f;
    Matrix first(format, rows, cols, points.data()), second(format, rows, cols, points.data());
    auto x = numbers((size_t)most * cols), bias = numbers(6 * rows);
    // Buffers of exactly what is read.
    Codes codes = in_bytes(x, format.is_coarse);
    std::string single = std::string("products_") + format.name, many = std::string("prompt_products_") + format.name;
    for (int is_panels = 0; is_panels <= format.has_panels; is_panels++) {
        auto bytes = [&](const Matrix &m) { return (is_panels ? m.panels : m.file).data(); };
        std::vector<float> want((size_t)most * width, NAN);
        const float *added = is_panels ? bias.data() : nullptr;
        RUN_AS(single, format.multiply, (rows + 31) / 32, (most + 3) / 4, format.shared, bytes(first), rows, cols,
               is_panels, points.data(), no_values, codes.codes.data(), codes.extras.data(), most, added, want.data(),
               width, at);
        for (int inputs : {most, 1 + below(most), 1 + below(20)}) {
            std::vector<float> out((size_t)inputs * width, NAN);
            const int together = 16 << below(3), tiles = (rows + 63) / 64 * ((inputs + together - 1) / together);
            const int blocks = 1 + below(tiles);
            std::vector<int8_t> own(codes.codes.begin(), codes.codes.begin() + inputs * cols);
            std::vector<float> extras(codes.extras.begin(), codes.extras.begin() + inputs * (cols / 8));
            RUN_AS(many, kernel.multiply, blocks, 1, kernel.shared, bytes(first), none, 0, (const int *)nullptr,
                   (const int *)nullptr, 1, rows, cols, is_panels, points.data(), own.data(), extras.data(), inputs,
                   added, out.data(), width, at, together, blocks);
            same(many, out, {want.begin(), want.begin() + inputs * width});
        }
    }

    // Experts 1, 2 and 5 are here; 0 has no rows, 4 has some and no address, 5 has more than a tile.
    const int is_panels = format.has_panels, experts = 6, used = 3;
    auto bytes = [&](const Matrix &m) { return (uint64_t)(is_panels ? m.panels : m.file).data(); };
    std::vector<int> choices(46 * used, 5);
    for (int slot = 0; slot < (int)choices.size(); slot += 7) choices[slot] = slot % 3 ? 4 : -1;
    for (int slot : {9, 2, 17, 36, 37, 60, 99}) choices[slot] = 2;
    choices[24] = 1;
    Sorted sorted = sort_by_expert(choices, experts);
    const int slots = (int)choices.size(), which = below(3), is_down = which == 2;
    std::vector<uint64_t> addresses(experts * 3, 16);
    for (int i = 0; i < experts; i++) addresses[i * 3 + which] = i == 5 ? bytes(first) : i < 3 ? bytes(second) : 0;
    x = numbers((size_t)(is_down ? slots : slots / used) * cols), codes = in_bytes(x, format.is_coarse);
    std::vector<float> out((size_t)slots * rows, NAN), want = out;
    const float *added = below(2) ? bias.data() : nullptr;
    RUN_AS(std::string("expert_") + single, format.multiply_experts, (rows + 31) / 32, slots, format.shared,
           addresses.data(), which, choices.data(), used, is_down, rows, cols, is_panels, points.data(), no_values,
           codes.codes.data(), codes.extras.data(), added, want.data());
    const int blocks = 1 + below(9);
    RUN_AS(many, kernel.multiply, blocks, 1, kernel.shared, nullptr, addresses.data(), which, sorted.list.data(),
           sorted.slots.data(), is_down ? 1 : used, rows, cols, is_panels, points.data(), codes.codes.data(),
           codes.extras.data(), 0, added, out.data(), rows, 0, 0, blocks);
    same(many + ", of experts", out, want);
}
