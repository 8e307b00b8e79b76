// Every kernel by itself under emulation, on small shapes and in orders of threads that seeds draw, against
// plain loops over the same numbers: to the bit, but for norms and attention. With a sanitizer it also notices
// what results may hide: accesses outside a buffer, shared memory that nobody waited for.
//   kernels [SEEDS]    the exit code is 0 if all holds; check.sh builds and runs it
// Whether a format's bits become the right weights is not asked: tests/cuda.rs compares them with the CPU's.
#define CHUNK_OF_ATTENTION 256
#include "device.h"
#include "kernels.h"
#include "plain.h"
#include <array>
#include <chrono>
#include <set>
#include <utility>

using namespace plain;

static std::set<std::string> launched;

#define RUN_AS(name, kernel, x, y, shared, ...) \
    (launched.insert(name), emulation::kernel_name = launched.find(name)->c_str(), launches++, \
     emulation::launch(x, y, 128, shared, {launches, launches % 2 == 0}, [&] { kernel(__VA_ARGS__); }))
#define RUN(kernel, x, y, shared, ...) RUN_AS(#kernel, kernel, x, y, shared, __VA_ARGS__)

// ---- steps

static void scalars() {
    for (uint32_t bits = 0; bits < 0xff000000; bits += 99991) {
        float x = bits_to_float((int)bits);
        double exact = exp((double)x);
        if (fabsf(x) < 87) close_to("exponential", exponential(x) / exact, 1, 2e-7);
        if (x <= 0 && x > -87) close_to("of negatives", exponential_of_negative(x) / exact, 1, 2.5e-7);
        if (!(fabsf(x) < 20)) continue;
        double inner = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), most = fmin(x, 7);
        double allowed = 1e-6 * fabs(x) + 1e-40;
        close_to("silu", activated(SILU, x), x / (1 + exp(-(double)x)), allowed);
        close_to("gelu", activated(GELU_ERF, x), 0.5 * x * (1 + erf(x * M_SQRT1_2)), allowed);
        close_to("gelu by tanh", activated(GELU_TANH, x), 0.5 * x * (1 + tanh(inner)), allowed);
        close_to("relu", activated(RELU, x), fmax(x, 0), 0);
        close_to("relu squared", activated(RELU_SQUARED, x), fmaxf(x, 0) * fmaxf(x, 0), 0);
        if (x >= 0) close_to("log1p", libm_log1p(x), log1p((double)x), 1.2e-7 * log1p((double)x));
        close_to("swiglu_oai", activated(SWIGLU_OAI, x), most / (1 + exp(-1.702 * most)), allowed);
    }
    expect(exponential(-100) == 0 && exponential(89) == INFINITY, "ends");
    expect(exponential(NAN) != exponential(NAN), "no number");
    expect(exponential_of_negative(-INFINITY) == 0 && exponential_of_negative(0) == 1, "ends of negatives");
    for (int bits = 0; bits < 0x7c00; bits++) {
        float low = half_to_float((uint16_t)bits), high = half_to_float((uint16_t)(bits + 1));
        float middle = (low + fminf(high, 65536)) / 2;
        bool is_nearest = float_to_half(low) == bits && float_to_half(nextafterf(middle, 0)) == bits;
        expect(is_nearest && float_to_half(middle) == bits + (bits & 1), "the nearest half");
    }
}

static void elements(int rows, int width) {
    auto x = numbers(rows * width), y = numbers(rows * width), weights = numbers(rows, 20);
    float factor = numbers(1)[0];
    each("add", x, width, [&](float *x) { RUN(add, rows, 1, 0, x, y.data(), factor, width); },
         [&](int row, int column, float value) { return value + y[row * width + column] * factor; });
    each("scale", x, width, [&](float *x) { RUN(scale, rows, 1, 0, x, factor, width); },
         [&](int, int, float value) { return value * factor; });
    each("cap", x, width, [&](float *x) { RUN(cap, rows, 1, 0, x, 1.5f, width); },
         [](int, int, float value) { return 1.5f * (1.0f - 2.0f / (exponential(2.0f * value / 1.5f) + 1.0f)); });
    each("clear", x, width, [&](float *x) { RUN(clear, rows, 1, 0, x, width); },
         [](int, int, float) { return 0.0f; });
    each("weigh_by_sigmoid", x, width,
         [&](float *x) { RUN(weigh_by_sigmoid, rows, 1, 0, weights.data(), x, width); },
         [&](int row, int, float value) { return value * (1.0f / (1.0f + exponential(-weights[row]))); });
    std::vector<int> picks(rows);
    for (int &pick : picks) pick = below(rows);
    each("select_rows", x, width,
         [&](float *x) { RUN(select_rows, rows, 1, 0, y.data(), picks.data(), x, width); },
         [&](int row, int column, float) { return y[picks[row] * width + column]; });

    int used = 1 + below(5);
    auto slots = numbers(rows * used * width), scores = numbers(rows * used);
    std::vector<int> choices(rows * used);
    for (int &choice : choices) choice = below(5) - 1;
    each("combine", x, width,
         [&](float *x) {
             RUN(combine, rows, 1, 0, x, slots.data(), choices.data(), scores.data(), used, width);
         },
         [&](int row, int column, float value) {
             for (int slot = row * used; slot < (row + 1) * used; slot++)
                 if (choices[slot] >= 0) value += scores[slot] * slots[slot * width + column];
             return value;
         });

    std::vector<uint64_t> addresses{16, 0, 16, 0, 16, 0, 16, 16, 16, 16, 0, 16}; // experts 1 and 2 have an up
    for (int kind = 0; kind < 6; kind++)
        for (const float *gate : {(const float *)nullptr, (const float *)y.data()}) {
            auto change = [&](int row, int column, float value) {
                if (!gate) return activated(kind, value);
                float other = kind == SWIGLU_OAI ? fminf(fmaxf(value, -7), 7) + 1 : value;
                return activated(kind, gate[row * width + column]) * other;
            };
            each("activate", x, width,
                 [&](float *x) { RUN(activate, rows, 1, 0, gate, x, kind, width); }, change);
            each("activate_slots", x, width,
                 [&](float *x) {
                     RUN(activate_slots, rows, 1, 0, gate, x, kind, width, choices.data(), addresses.data());
                 },
                 [&](int row, int column, float value) {
                     return choices[row] == 1 || choices[row] == 2 ? change(row, column, value) : value;
                 });
        }
}

static void norms(int rows, int width) {
    for (int kind = 0; kind < 3; kind++) {
        bool is_layer = kind > 0;
        auto x = numbers(rows * width), weight = numbers(width), bias = numbers(width);
        for (float &value : x) value += is_layer ? 3.0f : 0.0f;
        const float *added = kind == 1 ? nullptr : bias.data(); // which only a layer norm adds
        std::vector<float> out(x.size(), NAN);
        RUN(norm_rows, rows, 1, NORM_SHARED, x.data(), weight.data(), added, 1e-6f, is_layer, out.data(),
            width);
        for (int row = 0; row < rows; row++) {
            const float *values = &x[row * width];
            double mean = 0, squares = 0;
            for (int i = 0; i < width && is_layer; i++) mean += (double)values[i] / width;
            for (int i = 0; i < width; i++) squares += (values[i] - mean) * (values[i] - mean);
            double factor = 1 / sqrt(squares / width + 1e-6f);
            for (int i = 0; i < width; i++) {
                double size = (fabs(values[i]) + fabs(mean)) * factor * fabs(weight[i]);
                double shift = kind == 2 ? bias[i] : 0;
                close_to("norm_rows", out[row * width + i], (values[i] - mean) * factor * weight[i] + shift,
                         1e-6 * (size + fabs(shift)));
            }
        }
        // Pieces have the bits of rows.
        int gap = below(7), at = below(9), stride = width + gap, whole = at + 2 * stride + 2;
        auto spans = numbers(2 * whole), want = spans;
        std::vector<float> pieces;
        for (int i = 0; i < 4; i++) {
            const float *place = &spans[i / 2 * whole + at + i % 2 * stride];
            pieces.insert(pieces.end(), place, place + width);
        }
        RUN(norm_rows, 4, 1, NORM_SHARED, pieces.data(), weight.data(), added, 1e-5f, is_layer, pieces.data(),
            width);
        for (int i = 0; i < 4; i++)
            std::copy_n(&pieces[i * width], width, &want[i / 2 * whole + at + i % 2 * stride]);
        RUN(norm_span, 2, 2, NORM_SHARED, spans.data(), weight.data(), added, 1e-5f, is_layer, whole, at, width,
            stride);
        same("norm_span", spans, want);
    }
}

static void spans(int rows, int width) {
    int pieces = 1 + below(4), from_at = below(9), to_at = below(9), to_stride = width + below(5);
    int to_width = to_at + pieces * to_stride + 1;
    for (int from_stride : {0, width, width + 3}) { // 0: the same piece for all
        int from_width = from_at + pieces * (width + 3);
        auto from = numbers(rows * from_width);
        each("copy_span", numbers(rows * to_width), to_width,
             [&](float *out) {
                 RUN(copy_span, rows, pieces, 0, from.data(), from_width, from_at, from_stride, out, to_width,
                     to_at, to_stride, width);
             },
             [&](int row, int column, float value) {
                 int piece = (column - to_at) / to_stride, i = (column - to_at) % to_stride;
                 bool is_inside = column >= to_at && piece < pieces && i < width;
                 return is_inside ? from[row * from_width + from_at + piece * from_stride + i] : value;
             });
    }
    for (int factor = 0; factor < 3; factor++) {
        int from_stride = width + 3, from_width = from_at + pieces * from_stride;
        auto by = numbers(rows * from_width);
        each("multiply_span", numbers(rows * to_width), to_width,
             [&](float *out) {
                 RUN(multiply_span, rows, pieces, 0, by.data(), from_width, from_at, from_stride, out, to_width, to_at,
                     to_stride, width, factor);
             },
             [&](int row, int column, float value) {
                 int piece = (column - to_at) / to_stride, i = (column - to_at) % to_stride;
                 if (column < to_at || piece >= pieces || i >= width) return value;
                 float x = by[row * from_width + from_at + piece * from_stride + i];
                 float kinds[] = {x, 1.0f / (1.0f + exponential(-x)), activated(SILU, x)};
                 return value * kinds[factor];
             });
    }
    int pairs = 1 + below(width / 2), dims = pairs * 2;
    auto x = numbers(rows * to_width), angles = numbers(rows * dims, 1);
    for (bool is_neox : {false, true})
        each("rope", x, to_width,
             [&](float *x) {
                 RUN(rope, rows, pieces, 0, x, angles.data(), dims, is_neox, to_width, to_at, width, to_stride);
             },
             [&](int row, int column, float value) {
                 int piece = (column - to_at) / to_stride, i = (column - to_at) % to_stride;
                 if (column < to_at || piece >= pieces || i >= dims) return value;
                 bool is_second = is_neox ? i >= pairs : i % 2;
                 int pair = is_neox ? i % pairs : i / 2, distance = is_neox ? pairs : 1;
                 float cosine = angles[row * dims + pair], sine = angles[row * dims + pairs + pair];
                 const float *at = &x[row * to_width + column];
                 return is_second ? at[-distance] * sine + at[0] * cosine
                                  : at[0] * cosine - at[distance] * sine;
             });
}

#include "carried.h"

static void rounding(int rows, int width) {
    auto x = numbers(rows * width);
    for (int i = 0; i < rows * width; i++) {
        int kind = i / 32 % 7;
        x[i] *= kind == 0 ? 0.0f : kind == 1 ? 1e-38f : kind == 2 ? 1e36f : 1.0f;
        if (kind == 3) x[i] = i % 32 == 5 ? 127 : (float)below(253) - 126.5f; // halves
    }
    for (int is_coarse = 0; is_coarse <= (width % 256 == 0); is_coarse++) {
        Codes got{std::vector<int8_t>(x.size(), 99), std::vector<float>(x.size() / 8, NAN)};
        Codes want = in_bytes(x, is_coarse);
        RUN(quantize, rows, 1, 0, x.data(), width, is_coarse, got.codes.data(), got.extras.data());
        same("quantize, codes", got.codes, want.codes);
        same("quantize, extras", got.extras, want.extras);
    }
}

static void routing(int experts, int used, int groups) {
    const int rows = 3;
    for (int variant = 0; variant < 12; variant++) {
        Router r{experts, used, variant % 3, variant / 3 & 1 ? groups : 0, 1 + below(groups), 1 + below(2),
                 below(2) == 1, below(2) ? 2.5f : 1.0f, below(2) ? 0.8f / (float)used : 0.0f, nullptr};
        auto logits = numbers(rows * experts, 6), bias = numbers(experts, 0.3f), factors = numbers(experts, 1);
        for (float &factor : factors) factor = 1 + fabsf(factor);
        if (variant % 2) r.expert_scale = factors.data();
        for (float &value : logits) value = below(2) ? roundf(value) : below(50) ? value : NAN;
        for (float &value : bias) value = roundf(value * 10) / 10;
        const float *added = variant / 6 ? bias.data() : nullptr;
        std::vector<int> choices(rows * used, 77), want(rows * used);
        std::vector<float> scores(rows * used, 77), want_scores(rows * used);
        for (int row = 0; row < rows; row++)
            choose_plainly(r, &logits[row * experts], added, &want[row * used], &want_scores[row * used]);
        drop_plainly(used, 0, r.threshold, want, want_scores);
        RUN(route, rows, 1, (size_t)ROUTE_SHARED(experts), logits.data(), added, experts, used, r.gating,
            r.groups, r.groups_used, r.groups_counted, r.normalise, r.scale, r.threshold,
            r.expert_scale, choices.data(), scores.data());
        same("route, choices", choices, want);
        same("route, scores", scores, want_scores);
    }
}

static void capacity(int rows, int experts, int used) {
    for (float threshold : {0.0f, 0.8f / (float)used}) {
        std::vector<int> choices, every(experts);
        for (int i = 0; i < experts; i++) every[i] = i;
        for (int row = 0; row < rows; row++) {
            std::shuffle(every.begin(), every.end(), source);
            if (below(3)) std::swap(every[0], *std::find(every.begin(), every.end(), 0)); // the favourite
            choices.insert(choices.end(), every.begin(), every.begin() + used);
        }
        auto scores = numbers(rows * used, 1);
        for (float &score : scores) score = fabsf(score);
        auto want = choices;
        auto want_scores = scores;
        int most = 1 + rows * used / experts;
        drop_plainly(used, most, threshold, want, want_scores);
        RUN(route_capacity, 1, 1, (size_t)ROUTE_CAPACITY_SHARED(experts), choices.data(), scores.data(), rows,
            experts, used, most, threshold);
        same("route_capacity, choices", choices, want);
        same("route_capacity, scores", scores, want_scores);
    }
}

/// The best tokens of rows of logits, all of which may be the same.
static void bests(int width, bool is_flat) {
    const int rows = 2, strands = (width + 31) / 32, wanted = std::min((strands + 1) / 2, BEST_WANTED);
    auto logits = numbers(rows * width, 5), temperatures = numbers(rows, 0.4f);
    for (float &logit : logits) logit = is_flat ? 1.5f : below(30) ? logit : below(2) ? -INFINITY : NAN;
    for (float &temperature : temperatures) temperature += 1;
    std::vector<float> tops(rows * strands * 2, NAN), out(rows * BEST_WIDTH, NAN);
    RUN(strand_tops, rows, (strands + 127) / 128, 0, logits.data(), temperatures.data(), tops.data(), width);
    RUN(best, rows, 1, BEST_SHARED, logits.data(), temperatures.data(), tops.data(), out.data(), width);
    for (int row = 0; row < rows; row++) {
        std::vector<float> scores(&logits[row * width], &logits[row * width] + width);
        std::vector<float> highest(strands, -INFINITY);
        double total = 0;
        for (int i = 0; i < width; i++) {
            if (scores[i] != scores[i]) scores[i] = -INFINITY;
            highest[i % strands] = fmaxf(highest[i % strands], scores[i]);
        }
        std::sort(highest.rbegin(), highest.rend());
        for (float score : scores) total += exp(((double)score - highest[0]) / temperatures[row]);
        std::vector<int> ids;
        for (int i = 0; i < width; i++)
            if (scores[i] >= highest[wanted - 1] && scores[i] > -INFINITY) ids.push_back(i);
        const float *got = &out[row * BEST_WIDTH];
        int count = float_to_bits(got[0]), all = (int)ids.size();
        expect(all > BEST ? count > BEST : count == all, "best, how many");
        for (int i = 0; i < all && count <= BEST; i++)
            expect(float_to_bits(got[4 + i]) == ids[i] && got[4 + BEST + i] == scores[ids[i]], "best, a token");
        expect(got[1] == highest[wanted - 1] && got[3] == highest[0], "best, the bound and the highest");
        close_to("best, the sum", got[2], total, 1e-5 * total);
    }
}

// ---- the cache and attention

struct Shape {
    int format, kv_heads, sharing, key_width, value_width, window;
    bool has_sinks, values_in_keys;
};

/// Some rows of two sequences are stored, and then look at what is there.
static void attending(const Shape &s) {
    const int layer = below(2), key_width = s.key_width, value_width = s.value_width;
    const int sides = s.values_in_keys ? 1 : 2, heads = s.kv_heads * s.sharing, max_pages = Pages::NUMBERS;
    std::vector<int> positions{0, 127, 128, 256, Pages::LENGTH - 1}, sequences;
    const int rows = (int)positions.size();
    Pages pages(s.format, s.kv_heads, key_width, sides > 1 ? value_width : 0);
    int ats[2] = {3, 3 + s.kv_heads * key_width + 2}, qkv_width = ats[1] + s.kv_heads * pages.widths[1] + 1;
    auto qkv = numbers(rows * qkv_width, 1);
    std::fill(&qkv[3], &qkv[3] + 32, 0.0f);
    for (int row = 0; row < rows; row++) {
        sequences.push_back(below(2));
        for (int side = 0; side < sides; side++)
            pages.put(sequences[row], side, positions[row], &qkv[row * qkv_width + ats[side]]);
    }
    Pages stored = pages;
    for (int i = 0; i < rows * sides; i++) stored.forget(sequences[i / sides], i % sides, positions[i / sides]);
    const uint64_t *tables = stored.addresses(layer);
    // One head more than there are.
    RUN(store, rows, s.kv_heads + 1, 0, qkv.data(), qkv_width, ats[0], s.kv_heads, key_width, ats[1],
        pages.widths[1], positions.data(), sequences.data(), tables, layer, max_pages, s.format);
    for (int i = 0; i < 8; i++)
        same("store", stored.pages[i / 4][i / 2 % 2][i % 2], pages.pages[i / 4][i / 2 % 2][i % 2]);

    int q_at = below(5), q_stride = key_width + below(2) * 6, q_width = q_at + heads * q_stride + 2;
    auto queries = numbers(rows * q_width, 1), sinks = numbers(heads, 3);
    float scale = 1.0f / sqrtf((float)key_width);
    std::vector<int> arrived(rows * heads);
    auto look = [&](int first, int count, int chunks) {
        std::vector<float> out((size_t)count * heads * value_width, NAN);
        std::vector<float> parts((size_t)count * heads * chunks * (2 + value_width), NAN);
        RUN(attention, count, heads * chunks, (size_t)ATTENTION_SHARED(key_width, value_width), &queries[first * q_width], q_width,
            q_at, heads, key_width, q_stride, s.kv_heads, value_width, scale, s.window,
            s.has_sinks ? sinks.data() : nullptr, &positions[first], &sequences[first], tables, layer,
            max_pages, s.values_in_keys, s.format, chunks, parts.data(), arrived.data(), out.data());
        return out;
    };
    auto out = look(0, rows, 1);
    for (int i = 0; i < rows * heads; i++) {
        int row = i / heads, head = i % heads, position = positions[row];
        int first = s.window ? std::max(position + 1 - s.window, 0) : 0;
        auto [found, sizes] = pages.find(sequences[row], head / s.sharing, first, position,
                                         &queries[row * q_width + q_at + head * q_stride], scale,
                                         s.has_sinks ? sinks[head] : -INFINITY, value_width);
        for (int j = 0; j < value_width; j++)
            close_to("attention", out[i * value_width + j], found[j], 2e-6 * sizes[j]);
    }
    int one = below(rows), width = heads * value_width;
    same("attention of a row alone", look(one, 1, 1), {&out[one * width], &out[one * width] + width});
    same("attention by several blocks", look(0, rows, 4), out);
    same("attention, counters", arrived, std::vector<int>(rows * heads));
}

// ---- products

static void multiplying(const Format &format) {
    // More than a tile of 1024 columns, and more than two panels and a block of 32 rows.
    const int rows = 42, cols = format.value ? 70 : format.len == 32 ? 1056 : 1280, blocks = (rows + 31) / 32;
    const int width = rows + 7, at = 4, used = 3;
    std::vector<uint64_t> points(format.points);
    for (uint64_t &point : points) point = ((uint64_t)source() << 32 | source()) & 0x7f7f7f7f7f7f7f7f;
    Matrix matrix(format, rows, cols, points.data()), first = matrix, second = matrix;
    first.fill(points.data()), second.fill(points.data());
    const Matrix *experts[4] = {nullptr, &first, nullptr, &second};
    auto x = numbers(2 * used * cols), bias = numbers(4 * rows);
    Codes codes = format.value ? Codes() : in_bytes(x, format.is_coarse);
    const int8_t *x_codes = codes.codes.data();
    const float *extras = codes.extras.data();
    std::vector<int> tokens{rows - 1, 17, 17, 0}, choices{3, -1, 0, 1, 0, 3};
    std::string name;
    for (int is_panels = 0; is_panels <= format.has_panels; is_panels++) {
        auto bytes = [&](const Matrix &m) { return (is_panels ? m.panels : m.file).data(); };
        name = std::string("embed_") + format.name;
        for (bool is_added : {false, true})
            each(name, numbers(tokens.size() * cols), cols,
                 [&](float *out) {
                     RUN_AS(name, format.embed, (int)tokens.size(), 1, 0, bytes(matrix), rows, cols, is_panels,
                            points.data(), tokens.data(), is_added ? 1.7f : 1.0f, is_added, out);
                 },
                 [&](int row, int column, float value) {
                     float weight = matrix.weight(tokens[row], column);
                     return is_added ? value + weight * 1.7f : weight;
                 });
        name = std::string("products_") + format.name;
        for (int inputs : {1, 6}) {
            const float *added = inputs == 1 ? nullptr : bias.data();
            int together = format.value ? inputs : (inputs + 3) / 4;
            each(name, numbers(inputs * width), width,
                 [&](float *out) {
                     RUN_AS(name, format.multiply, blocks, together, format.shared, bytes(matrix), rows, cols,
                            is_panels, points.data(), x.data(), x_codes, extras, inputs, added, out, width, at);
                 },
                 [&](int input, int column, float value) {
                     if (column < at || column >= at + rows) return value;
                     float sum = matrix.product(column - at, x, codes, input);
                     return added ? sum + bias[column - at] : sum;
                 });
        }
        name = std::string("expert_products_") + format.name;
        for (int which = 0; which < 3; which++) {
            std::vector<uint64_t> addresses(4 * 3, 16);
            for (int i = 0; i < 4; i++)
                addresses[i * 3 + which] = experts[i] ? (uint64_t)bytes(*experts[i]) : 0;
            bool is_down = which == 2, has_bias = which != 1;
            each(name, numbers(choices.size() * rows), rows,
                 [&](float *out) {
                     RUN_AS(name, format.multiply_experts, blocks, (int)choices.size(), format.shared,
                            addresses.data(), which, choices.data(), used, is_down, rows, cols, is_panels,
                            points.data(), x.data(), x_codes, extras, has_bias ? bias.data() : nullptr, out);
                 },
                 [&](int slot, int row, float value) {
                     const Matrix *expert = choices[slot] < 0 ? nullptr : experts[choices[slot]];
                     if (!expert) return value;
                     float sum = expert->product(row, x, codes, is_down ? slot : slot / used);
                     return has_bias ? sum + bias[choices[slot] * rows + row] : sum;
                 });
        }
    }
}

#include "joined.h"
#include "prompts.h"
#if defined(__SANITIZE_THREAD__)
#define JOINED_EVERY 5
#define PROMPTS_EVERY 4
#else
#define JOINED_EVERY 1
#define PROMPTS_EVERY 1
#endif

int main(int count, char **arguments) {
    auto start = std::chrono::steady_clock::now();
    auto seconds = [&] {
        auto before = std::exchange(start, std::chrono::steady_clock::now());
        return std::chrono::duration<double>(start - before).count();
    };
#define FORMATS(OF) \
    OF(Q4_0, 0) OF(Q4_1, 0) OF(Q5_0, 0) OF(Q5_1, 0) OF(Q8_0, 0) OF(Q2_K, 0) OF(Q3_K, 0) OF(Q4_K, 0) OF(Q5_K, 0) \
    OF(Q6_K, 0) OF(IQ1_S, 2048) OF(IQ1_M, 2048) OF(IQ2_XXS, 256) OF(IQ2_XS, 512) OF(IQ2_S, 1024) \
    OF(IQ3_XXS, 256) OF(IQ3_S, 512) OF(IQ4_NL, 0) OF(IQ4_XS, 0) OF(TQ1_0, 0) OF(TQ2_0, 0) OF(MXFP4, 0)
#define DESCRIBED(F, points) described<F>({#F, points, embed_##F, products_##F, expert_products_##F}),
#define JOINED(F, points) {row_products_##F, head_products_##F, gate_up_##F, down_##F, nullptr},
#define JOINED_FLOATS(F) {row_products_##F, head_products_##F, gate_up_##F, down_##F, norm_route_##F},
    const Format formats[] = {DESCRIBED(F32, 0) DESCRIBED(F16, 0) DESCRIBED(BF16, 0) FORMATS(DESCRIBED)};
    const Joining joinings[] = {JOINED_FLOATS(F32) JOINED_FLOATS(F16) JOINED_FLOATS(BF16) FORMATS(JOINED)};
#define PROMPTS(F, points) {prompt_products_##F, PROMPTS_SHARED(F)},
    const Prompting promptings[] = {{}, {}, {}, FORMATS(PROMPTS)};
    scalars();
    places();
    int seeds = count > 1 ? atoi(arguments[1]) : 2;
    for (int seed = 1; seed <= seeds; seed++) {
        source.seed((uint32_t)seed), launches = (uint32_t)seed * 1000003;
        for (int width : {1, 130, 300}) elements(3, width), norms(3, width), spans(3, width + 1);
        for (int width : {32, 96, 1280}) rounding(2, width);
        routing(8, 2, 4), routing(60, 4, 5), routing(300, 22, 10), routing(1, 1, 1);
        capacity(7, 4, 2), capacity(300, 16, 3), capacity(128, 3, 3);
        bests(100, false), bests(9000, false), bests(300, true), bests(16000, true);
        adapting(5, 3, 200), adapting(2, 16, 33);
        convolving(130, 4, SILU), convolving(20, 2, -1), convolving(5, 8, RELU), convolving(7, 1, -1);
        scanning({2, 16, 4, 40, 3, false, true}), scanning({1, 7, 2, 32, 0, true, false});
        scanning({2, 128, 2, 64, 8, true, true});
        double steps = seconds();
        for (int format = 0; format < 4; format++) {
            attending({format, 2, 2, 64, 64, 0, false, false});
            attending({format, 1, 2, 96, 160, 130, true, false});
            attending({format, 1, 1, 192, 128, 7, false, true});
        }
        double attention = seconds();
        for (const Format &format : formats) multiplying(format);
        double products = seconds();
        // The race detector takes its time, and races are those of a template: it sees a few formats.
        const size_t every = JOINED_EVERY;
        for (size_t i = 0; i < std::size(formats); i += every) joined_steps(formats[i], joinings[i]);
        for (int format = 0; format < 4; format++)
            for (bool has_norm : {false, true}) joined_heads(format, has_norm, !has_norm || below(2));
        double joined = seconds();
        sorting();
        for (size_t i = 0; i < std::size(formats); i += PROMPTS_EVERY)
            if (promptings[i].multiply) prompting(formats[i], promptings[i]);
        printf("seed %d: steps %.1f s, attention %.1f s, products %.1f s, joined %.1f s, prompts %.1f s\n", seed, steps,
               attention, products, joined, seconds());
    }
#define WAS_LAUNCHED(kernel) expect(JOINED_EVERY > 1 || launched.count(#kernel) == 1, #kernel " was launched");
    KERNELS(WAS_LAUNCHED)
    return 0;
}
