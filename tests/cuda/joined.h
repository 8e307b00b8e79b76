// Joined kernels against those that they join, to the bit: `joined_steps` for every format, `joined_heads` for every cache.
// Included by kernels.cpp, which tests the latter by themselves.
#pragma once

/// A format's kernels.
struct Joining {
    void (*row_products)(const float *, int, const float *, const float *, float, int, int, int, const uint64_t *,
                         const uint8_t *, int, const float *, int, const uint8_t *, int, const float *, int,
                         const uint8_t *, int, const float *, int, float *, int, int, float);
    void (*head_products)(const float *, int, int, int, const uint64_t *, int, int, int, int, const uint64_t *, float *,
                          int, int, int);
    void (*gate_up)(const float *, int, const float *, const float *, float, int, const uint8_t *, const uint8_t *,
                    const uint64_t *, const int *, int, int, int, int, const uint64_t *, const float *, const float *,
                    int, float *);
    void (*down)(const float *, const uint64_t *, const int *, const float *, int, int, int, int, const uint64_t *,
                 const float *, float *, int *, const float *, float *, int, float);
    void (*norm_route)(const float *, int, const float *, const float *, float, int, const uint8_t *, int, int,
                       const float *, float *, int *, const float *, int, int, int, int, int, int, float, float,
                       const float *, int *, float *);
};

/// Everything as it is done step by step: rows normalised, rounded and multiplied.
struct Steps {
    const Format &format;
    int cols, is_panels;
    const uint64_t *points;

    std::vector<float> normalised(const std::vector<float> &x, const float *weight, const float *bias,
                                  bool is_layer) const {
        std::vector<float> out(x.size());
        RUN(norm_rows, (int)x.size() / cols, 1, NORM_SHARED, x.data(), weight, bias, 1e-5f, is_layer, out.data(), cols);
        return out;
    }
    Codes rounded(const std::vector<float> &x) const {
        if (format.value) return {};
        Codes codes{std::vector<int8_t>(x.size()), std::vector<float>(x.size() / 8)};
        RUN(quantize, (int)x.size() / cols, 1, 0, x.data(), cols, format.is_coarse, codes.codes.data(),
            codes.extras.data());
        return codes;
    }
    void multiply(const uint8_t *bytes, int rows, const std::vector<float> &x, const float *bias, float *out, int width,
                  int at) const {
        Codes codes = rounded(x);
        int inputs = (int)x.size() / cols, together = format.value ? inputs : (inputs + 3) / 4;
        RUN_AS(std::string("products_") + format.name, format.multiply, (rows + 31) / 32, together, format.shared,
               bytes, rows, cols, is_panels, points, x.data(), codes.codes.data(), codes.extras.data(), inputs, bias,
               out, width, at);
    }
    std::vector<float> multiply_experts(const uint64_t *addresses, int which, const std::vector<int> &choices, int used,
                                        int rows, const std::vector<float> &x, const float *bias) const {
        Codes codes = rounded(x);
        std::vector<float> out(choices.size() * rows, NAN);
        RUN_AS(std::string("expert_products_") + format.name, format.multiply_experts, (rows + 31) / 32,
               (int)choices.size(), format.shared, addresses, which, choices.data(), used, which == 2, rows, cols,
               is_panels, points, x.data(), codes.codes.data(), codes.extras.data(), bias, out.data());
        return out;
    }
};

static void joined_steps(const Format &format, const Joining &kernels) {
    const int rows = 42, cols = format.value ? 70 : format.len == 32 ? 96 : 512, inputs = 2, used = 3;
    const size_t shared = format.value ? (size_t)FLOATS_DECODE_SHARED(cols)
                                       : format.shared + NORM_SHARED + (size_t)cols * 3 / 2;
    std::vector<uint64_t> points(format.points);
    for (uint64_t &point : points) point = ((uint64_t)source() << 32 | source()) & 0x7f7f7f7f7f7f7f7f;
    Matrix first(format, rows, cols, points.data()), second(format, rows, cols, points.data());
    auto x = numbers(inputs * cols), weight = numbers(cols, 2), shift = numbers(cols, 1), bias = numbers(4 * rows);
    auto name = [&](const char *kernel) { return std::string(kernel) + "_" + format.name; };
    const int is_panels = format.has_panels;
    const Steps steps{format, cols, is_panels, points.data()};
    const uint8_t *one = is_panels ? first.panels.data() : first.file.data();
    const uint8_t *other = is_panels ? second.panels.data() : second.file.data();
    {
        const int kind = below(3); // no norm, by squares, with the mean
        const float *by = kind ? weight.data() : nullptr, *added = kind == 2 ? shift.data() : nullptr;
        auto normed = kind ? steps.normalised(x, by, added, kind == 2) : x;
        const int width = 3 * rows + 9;
        auto out = numbers(inputs * width), want = out;
        steps.multiply(one, rows, normed, nullptr, want.data(), width, 2);
        steps.multiply(other, rows - 10, normed, bias.data(), want.data(), width, rows + 4);
        steps.multiply(other, 16, normed, nullptr, want.data(), width, 2 * rows);
        RUN_AS(name("row_products"), kernels.row_products, 2 + 1 + 1, inputs, shared, x.data(), cols, by, added, 1e-5f,
               kind == 2, cols, is_panels, points.data(), one, rows, nullptr, 2, other, rows - 10, bias.data(), rows + 4,
               other, 16, nullptr, 2 * rows, out.data(), width, 0, 1.0f);
        same(name("row_products"), out, want);

        std::vector<float> alone(inputs * rows), sum = numbers(inputs * rows), joined = sum;
        steps.multiply(one, rows, normed, bias.data(), alone.data(), rows, 0);
        RUN(add, inputs, 1, 0, sum.data(), alone.data(), 0.7f, rows);
        RUN_AS(name("row_products"), kernels.row_products, 2, inputs, shared, x.data(), cols, by, added, 1e-5f,
               kind == 2, cols, is_panels, points.data(), one, rows, bias.data(), 0, nullptr, 0, nullptr, 0, nullptr, 0,
               nullptr, 0, joined.data(), rows, 1, 0.7f);
        same(name("row_products") + ", added", joined, sum);

        // Experts 1 and 3 are here; one FFN has neither choices nor addresses.
        std::vector<uint64_t> addresses(4 * 3);
        for (int part = 0; part < 3; part++)
            addresses[3 + part] = (uint64_t)(part == 1 ? one : other), addresses[9 + part] = (uint64_t)(part ? other : one);
        std::vector<int> choices{3, -1, 1, 1, 0, 3};
        for (bool has_gate : {true, false}) {
            if (!has_gate) addresses[3] = addresses[9] = 0;
            int activation = kind == 1 ? SWIGLU_OAI : SILU;
            auto up = steps.multiply_experts(addresses.data(), 1, choices, used, rows, normed, bias.data());
            auto gate = steps.multiply_experts(addresses.data(), 0, choices, used, rows, normed, nullptr);
            RUN(activate_slots, (int)choices.size(), 1, 0, has_gate ? gate.data() : nullptr, up.data(), activation, rows,
                choices.data(), addresses.data());
            std::vector<float> hidden(up.size(), NAN);
            RUN_AS(name("gate_up"), kernels.gate_up, 2, (int)choices.size(), shared, x.data(), cols, by, added, 1e-5f,
                   kind == 2, nullptr, nullptr, addresses.data(), choices.data(), used, rows, cols, is_panels,
                   points.data(), nullptr, bias.data(), activation, hidden.data());
            same(name("gate_up"), hidden, up);

            std::vector<float> dense_gate(inputs * rows), dense(inputs * rows), got(inputs * rows, NAN);
            steps.multiply(one, rows, normed, bias.data(), dense_gate.data(), rows, 0);
            steps.multiply(other, rows, normed, nullptr, dense.data(), rows, 0);
            RUN(activate, inputs, 1, 0, has_gate ? dense_gate.data() : nullptr, dense.data(), activation, rows);
            RUN_AS(name("gate_up"), kernels.gate_up, 2, inputs, shared, x.data(), cols, by, added, 1e-5f, kind == 2,
                   has_gate ? one : nullptr, other, nullptr, nullptr, 1, rows, cols, is_panels, points.data(),
                   bias.data(), nullptr, activation, got.data());
            same(name("gate_up") + ", dense", got, dense);
        }

        // Every choice has an address; one is left out.
        choices = {3, 1, -1, 1, 3, 1};
        auto hidden = numbers(choices.size() * cols), scores = numbers(choices.size(), 1), start = numbers(inputs * rows);
        auto slots = steps.multiply_experts(addresses.data(), 2, choices, used, rows, hidden, bias.data());
        auto combined = kind ? start : std::vector<float>(inputs * rows);
        RUN(combine, inputs, 1, 0, combined.data(), slots.data(), choices.data(), scores.data(), used, rows);
        auto stream = numbers(inputs * rows);
        std::vector<int> arrived(inputs * 2);
        for (bool is_residual : {false, true}) {
            auto got = is_residual ? stream : start;
            std::vector<float> places(slots.size(), NAN);
            RUN_AS(name("down"), kernels.down, 2, (int)choices.size(), shared, hidden.data(), addresses.data(),
                   choices.data(), scores.data(), used, rows, cols, is_panels, points.data(), bias.data(), places.data(),
                   arrived.data(), kind ? start.data() : nullptr, got.data(), is_residual, 1.3f);
            if (is_residual) RUN(add, inputs, 1, 0, stream.data(), combined.data(), 1.3f, rows);
            same(name("down"), got, is_residual ? stream : combined);
            same("counters", arrived, std::vector<int>(inputs * 2));
        }

        if (kernels.norm_route) {
        std::vector<float> logits(inputs * rows), got_logits(inputs * rows, NAN), want_scores(inputs * used), got_scores = want_scores;
        std::vector<int> want_choices(inputs * used), got_choices = want_choices;
        auto choice_bias = numbers(rows, 1), expert_scale = numbers(rows, 1);
        steps.multiply(one, rows, normed, bias.data(), logits.data(), rows, 0);
        RUN(route, inputs, 1, (size_t)ROUTE_SHARED(rows), logits.data(), choice_bias.data(), rows, used, kind, 6, 4, 2,
            1, 2.5f, 0.0f, expert_scale.data(), want_choices.data(), want_scores.data());
        RUN_AS(name("norm_route"), kernels.norm_route, 2, inputs, std::max(shared, (size_t)ROUTE_SHARED(rows)), x.data(),
               cols, by, added, 1e-5f, kind == 2, one, rows, cols, bias.data(), got_logits.data(), arrived.data(),
               choice_bias.data(), used, kind, 6, 4, 2, 1, 2.5f, 0.0f, expert_scale.data(), got_choices.data(),
               got_scores.data());
        same("norm_route, logits", got_logits, logits);
        same("norm_route, choices", got_choices, want_choices);
        same("norm_route, scores", got_scores, want_scores);
        same("counters", arrived, std::vector<int>(inputs * 2));
        }
    }

    // A matrix for each piece of a row.
    const int count = 3, x_stride = cols + 6, x_width = 5 + count * x_stride, out_stride = rows + 2;
    const int width = 1 + count * out_stride;
    auto joined = numbers(inputs * x_width), out = numbers(inputs * width), want = out;
    std::vector<uint64_t> heads{(uint64_t)one, (uint64_t)other, (uint64_t)one};
    for (int head = 0; head < count; head++) {
        std::vector<float> piece(inputs * cols);
        RUN(copy_span, inputs, 1, 0, joined.data(), x_width, 5 + head * x_stride, 0, piece.data(), cols, 0, 0, cols);
        steps.multiply((const uint8_t *)heads[head], rows, piece, nullptr, want.data(), width, 1 + head * out_stride);
    }
    RUN_AS(name("head_products"), kernels.head_products, 2, inputs * count, shared, joined.data(), x_width, 5, x_stride,
           heads.data(), count, rows, cols, is_panels, points.data(), out.data(), width, 1, out_stride);
    same(name("head_products"), out, want);
}

/// Norms and rotations of query and key heads, and the cache.
static void joined_heads(int cache_format, bool has_norm, bool has_rope) {
    const int queries = 3, kv_heads = 2, key_width = 64, value_width = 96, layer = 1, rows = 2, max_pages = Pages::NUMBERS;
    const int key_at = 3 + queries * key_width, value_at = key_at + kv_heads * key_width;
    const int width = value_at + kv_heads * value_width, pairs = has_rope ? 24 : 0;
    bool is_neox = below(2), is_layer = below(2);
    auto joined = numbers(rows * width, 1), want = joined, angles = numbers(rows * 2 * 24, 1);
    auto q_weight = numbers(key_width, 2), k_weight = numbers(key_width, 2), bias = numbers(key_width, 1);
    std::vector<int> positions{5, 257}, sequences{1, 0};
    Pages pages(cache_format, kv_heads, key_width, value_width), plainly = pages;
    if (has_norm) {
        RUN(norm_span, rows, queries, NORM_SHARED, want.data(), q_weight.data(), bias.data(), 1e-5f, is_layer, width, 3,
            key_width, key_width);
        RUN(norm_span, rows, kv_heads, NORM_SHARED, want.data(), k_weight.data(), nullptr, 1e-3f, is_layer, width,
            key_at, key_width, key_width);
    }
    if (has_rope) {
        RUN(rope, rows, queries, 0, want.data(), angles.data(), 48, is_neox, width, 3, key_width, key_width);
        RUN(rope, rows, kv_heads, 0, want.data(), angles.data(), 48, is_neox, width, key_at, key_width, key_width);
    }
    const uint64_t *plain_tables = plainly.addresses(layer), *tables = pages.addresses(layer);
    RUN(store, rows, kv_heads, 0, want.data(), width, key_at, kv_heads, key_width, value_at, value_width,
        positions.data(), sequences.data(), plain_tables, layer, max_pages, cache_format);
    const float *none = nullptr;
    RUN(heads, rows, queries + kv_heads, NORM_SHARED, joined.data(), width, 3, queries, key_width, key_width,
        has_norm ? q_weight.data() : none, bias.data(), 1e-5f, key_at, key_width, has_norm ? k_weight.data() : none, none,
        1e-3f, is_layer, angles.data(), pairs, is_neox, value_at, value_width, positions.data(), sequences.data(),
        tables, layer, max_pages, cache_format);
    same("heads", joined, want);
    for (int i = 0; i < 8; i++)
        same("heads, the cache", pages.pages[i / 4][i / 2 % 2][i % 2], plainly.pages[i / 4][i / 2 % 2][i % 2]);
}
