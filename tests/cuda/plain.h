// What kernels are compared with: plain loops for routing, rounding, attention and products, and comparisons
// that end the program. Included after the kernels, whose scalar functions it uses: kernels.cpp tests those by
// themselves.
#pragma once
#include <string>
#include <utility>

namespace plain {

static std::mt19937 source;
/// Launches so far: the seed of the next.
static uint32_t launches = 0;

static void expect(bool holds, const char *what) {
    if (holds) return;
    printf("%s: does not hold, after launch %u\n", what, launches);
    exit(1);
}
static void close_to(const char *what, double got, double want, double allowed) {
    if (fabs(got - want) <= allowed) return;
    printf("%s, launch %u: %.9g instead of %.9g\n", what, launches, got, want);
    exit(1);
}
/// All that is no number is the same.
template <class T>
static void same(const std::string &what, const std::vector<T> &got, const std::vector<T> &want) {
    for (size_t i = 0; i < want.size(); i++) {
        if (!memcmp(&got[i], &want[i], sizeof(T)) || (got[i] != got[i] && want[i] != want[i])) continue;
        printf("%s, launch %u: place %zu has %.9g instead of %.9g\n", what.c_str(), launches, i, (double)got[i],
               (double)want[i]);
        exit(1);
    }
}

static int below(int count) { return (int)(source() % (uint32_t)count); }
/// Of many magnitudes, or up to a limit.
static std::vector<float> numbers(size_t count, float limit = 0) {
    std::vector<float> values(count);
    for (float &value : values)
        value = (float)(below(2000001) - 1000000) * (limit > 0 ? 1e-6f * limit : ldexpf(1e-6f, below(12) - 6));
    return values;
}

/// What `change` makes of each number of rows, by row and column, is what the kernel makes of them.
template <class Kernel, class Change>
static void each(const std::string &what, std::vector<float> x, int width, Kernel kernel, Change change) {
    std::vector<float> want = x;
    for (size_t i = 0; i < x.size(); i++) want[i] = change((int)i / width, (int)i % width, x[i]);
    kernel(x.data());
    same(what, x, want);
}

/// Rows in bytes.
struct Codes {
    std::vector<int8_t> codes;
    std::vector<float> extras;
};
static Codes in_bytes(const std::vector<float> &x, bool is_coarse) {
    Codes out{std::vector<int8_t>(x.size()), std::vector<float>(x.size() / 8)};
    int neighbours = is_coarse ? 256 : 32;
    for (size_t group = 0; group < x.size() / 32; group++) {
        size_t first = group * 32 / neighbours * neighbours;
        float largest = 0, sums[2] = {};
        for (int i = 0; i < neighbours; i++) largest = fmaxf(largest, fabsf(x[first + i]));
        float scale = largest > 0 ? largest / 127.0f : -0.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
        for (size_t i = group * 32; i < group * 32 + 32; i++) {
            out.codes[i] = (int8_t)nearbyintf(x[i] * (std::isfinite(inverse) ? inverse : 0.0f));
            sums[i / 16 % 2] += out.codes[i];
        }
        float extras[4] = {scale, scale * (sums[0] + sums[1]), scale * sums[0], scale * sums[1]};
        std::copy(extras, extras + 4, &out.extras[group * 4]);
    }
    return out;
}
struct Router {
    int experts, used, gating, groups, groups_used, groups_counted;
    bool normalise;
    float scale, threshold;
    const float *expert_scale;
};

/// A row's experts and their scores.
static void choose_plainly(const Router &r, const float *logits, const float *bias, int *choices,
                           float *scores) {
    std::vector<float> values(logits, logits + r.experts);
    auto softmax = [](float *x, int count) {
        float largest = -INFINITY, sum = 0;
        for (int i = 0; i < count; i++) largest = fmaxf(largest, x[i]);
        for (int i = 0; i < count; i++) sum += x[i] = exponential(x[i] - largest);
        return sum;
    };
    if (r.gating == 1)
        for (float &value : values) value = 1.0f / (1.0f + exponential(-value));
    if (r.gating == 0) {
        float sum = softmax(values.data(), r.experts);
        for (float &value : values) value /= sum;
    }
    auto keys = values;
    for (int i = 0; i < r.experts; i++) {
        if (bias) keys[i] += bias[i];
        if (keys[i] != keys[i]) keys[i] = -INFINITY;
    }
    std::vector<int> order(r.groups);
    std::vector<float> worths(r.groups);
    for (int group = 0; group < r.groups; group++) {
        int size = r.experts / r.groups;
        std::vector<float> members(&keys[group * size], &keys[group * size] + size);
        std::sort(members.rbegin(), members.rend());
        order[group] = group, worths[group] = members[0];
        if (r.groups_counted == 2 && size > 1) worths[group] += members[1];
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return worths[a] > worths[b]; });
    for (int place = r.groups_used; place < r.groups; place++)
        for (int i = 0; i < r.experts; i++)
            if (i / (r.experts / r.groups) == order[place]) keys[i] = -INFINITY;
    order.resize(r.experts);
    for (int i = 0; i < r.experts; i++) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return keys[a] > keys[b]; });
    for (int i = 0; i < r.used; i++)
        choices[i] = order[i], scores[i] = bias || r.groups ? values[order[i]] : keys[order[i]];
    float sum = 0;
    if (r.gating == 2) softmax(scores, r.used);
    for (int i = 0; i < r.used; i++) sum += scores[i];
    sum = r.normalise || r.gating == 2 ? fmaxf(sum, 6.1035156e-5f) : 1.0f;
    for (int i = 0; i < r.used; i++) {
        scores[i] = scores[i] / sum * r.scale;
        if (r.expert_scale) scores[i] *= r.expert_scale[choices[i]];
    }
}

/// What capacity (0: none) and threshold leave.
static void drop_plainly(int used, int capacity, float threshold, std::vector<int> &choices,
                         std::vector<float> &scores) {
    int rows = (int)choices.size() / used;
    std::vector<int> fill(2048);
    for (int choice = 0; choice < used; choice++)
        for (int row = 0; row < rows; row++)
            if (int &expert = choices[row * used + choice]; fill[expert]++ >= capacity && capacity) expert = -1;
    for (int row = 0; row < rows && threshold > 0; row++) {
        int *row_choices = &choices[row * used];
        float *row_scores = &scores[row * used], all = 0, kept = 0;
        for (int i = 0; i < used; i++) all += row_scores[i];
        for (int i = 0; i < used; i++) {
            if (i > 0 && row_scores[i] < threshold * all) row_choices[i] = -1;
            kept += row_choices[i] < 0 ? 0.0f : row_scores[i];
        }
        for (int i = 0; i < used; i++) row_scores[i] *= kept > 0 ? all / kept : 1.0f;
    }
}

/// What the cache keeps of a row: its bytes, and the numbers that they stand for.
static void encode(int format, const float *x, int width, uint8_t *bytes, float *kept) {
    for (int i = 0; i < width; i++) {
        const float *block = x + i / 32 * 32;
        float largest = 0;
        for (int j = 0; j < 32 && format == cache::Q8_0; j++) largest = fmaxf(largest, fabsf(block[j]));
        uint32_t bits = (uint32_t)float_to_bits(x[i]), nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        uint16_t half = format == cache::F16 ? float_to_half(x[i]) : (uint16_t)nearest;
        uint16_t scale = float_to_half(largest / 127.0f);
        int8_t code = (int8_t)roundf(x[i] * (largest > 0 ? 1.0f / (largest / 127.0f) : 0.0f));
        switch (format) {
        case cache::F32: kept[i] = x[i], memcpy(bytes + i * 4, &bits, 4); break;
        case cache::F16: kept[i] = half_to_float(half), memcpy(bytes + i * 2, &half, 2); break;
        case cache::BF16: kept[i] = bits_to_float((int)(nearest << 16)), memcpy(bytes + i * 2, &half, 2); break;
        default:
            kept[i] = (float)code * half_to_float(scale), memcpy(bytes + i / 32 * 34, &scale, 2);
            bytes[i / 32 * 34 + 2 + i % 32] = (uint8_t)code;
        }
    }
}

/// Keys and values of a layer: two sequences of as many positions.
struct Pages {
    static constexpr int LENGTH = 600, NUMBERS = 3;
    int format, heads, widths[2];                // of a head's key and value; 0: there are no values
    std::vector<uint8_t> pages[2][2][NUMBERS];   // by sequence, side, number
    std::vector<float> kept[2][2];               // what their bytes stand for
    std::vector<uint64_t> tables[2], all_tables; // addresses

    Pages(int format, int heads, int key_width, int value_width)
        : format(format), heads(heads), widths{key_width, value_width} {
        for (int sequence = 0; sequence < 2; sequence++)
            for (int side = 0; side < (value_width > 0 ? 2 : 1); side++) {
                for (auto &page : pages[sequence][side]) page.resize(256 * heads * row_bytes(side), 0xff);
                kept[sequence][side].resize(LENGTH * heads * widths[side]);
                for (int position = 0; position < LENGTH; position++)
                    put(sequence, side, position, numbers(heads * widths[side], 1).data());
            }
    }
    size_t row_bytes(int side) const {
        return (size_t)widths[side] / 32 * (format == cache::Q8_0 ? 34 : format == cache::F32 ? 128 : 64);
    }
    uint8_t *place(int sequence, int side, int position, int head) {
        return &pages[sequence][side][position / 256][(head * 256 + position % 256) * row_bytes(side)];
    }
    void put(int sequence, int side, int position, const float *values) {
        for (int head = 0, width = widths[side]; head < heads; head++)
            encode(format, values + head * width, width, place(sequence, side, position, head),
                   &kept[sequence][side][(position * heads + head) * width]);
    }
    void forget(int sequence, int side, int position) {
        for (int head = 0; head < heads; head++)
            memset(place(sequence, side, position, head), 0xee, row_bytes(side));
    }
    /// The tables of both sequences, for kernels; other layers than this one of two have no pages.
    const uint64_t *addresses(int layer) {
        all_tables.clear();
        for (int sequence = 0; sequence < 2; sequence++) {
            tables[sequence].assign(2 * 2 * NUMBERS, 16);
            for (int i = 0; i < 2 * NUMBERS; i++)
                tables[sequence][layer * 2 * NUMBERS + i] =
                    (uint64_t)pages[sequence][i / NUMBERS][i % NUMBERS].data();
            all_tables.push_back((uint64_t)tables[sequence].data());
        }
        return all_tables.data();
    }
    /// What a query finds from `first` to `position`: a number, and the size of what makes it up.
    std::pair<std::vector<double>, std::vector<double>> find(int sequence, int head, int first, int position,
                                                             const float *query, float scale, double sink,
                                                             int value_width) const {
        const int key_width = widths[0], side = widths[1] > 0 ? 1 : 0;
        std::vector<double> sums(value_width), sizes(value_width, 1e-12);
        double total = exp(sink);
        for (int seen = first; seen <= position; seen++) {
            const float *key = &kept[sequence][0][(seen * heads + head) * key_width];
            const float *value = &kept[sequence][side][(seen * heads + head) * widths[side]];
            double score = 0;
            for (int i = 0; i < key_width; i++) score += (double)query[i] * key[i] * scale;
            total += score = exp(score);
            for (int i = 0; i < value_width; i++)
                sums[i] += score * value[i], sizes[i] += fabs(score * value[i]);
        }
        for (int i = 0; i < value_width; i++) sums[i] /= total, sizes[i] /= total;
        return {sums, sizes};
    }
};

/// Thirty-two weights of a row: code * scale - min, of either half.
struct Group {
    int8_t codes[32];
    float scale[2], min[2];
};

/// A format's kernels, and what its struct says.
struct Format {
    const char *name;
    int points; // how many its grid has
    void (*embed)(const uint8_t *, int, int, int, const uint64_t *, const int *, float, int, float *);
    void (*multiply)(const uint8_t *, int, int, int, const uint64_t *, const float *, const int8_t *,
                     const float *, int, const float *, float *, int, int);
    void (*multiply_experts)(const uint64_t *, int, const int *, int, int, int, int, int, const uint64_t *,
                             const float *, const int8_t *, const float *, const float *, float *);
    size_t shared = 0; // bytes, of products
    int len = 1, bytes = 0, group = 32;
    bool has_min = false, is_coarse = false, is_odd_first = false, has_panels = false;
    int (*place)(int) = nullptr;
    Group (*unpack)(const uint8_t *block, const uint64_t *points, int group) = nullptr;
    float (*value)(const uint8_t *row, size_t index) = nullptr; // of floats
};

/// A block as it lies in the file.
template <class F> struct FileWords {
    static constexpr int ODD = F::BYTES % 4;
    const uint8_t *block;
    const uint64_t *points;

    uint32_t at(int place, int count) const {
        uint32_t word = 0;
        memcpy(&word, block + place, count);
        return word;
    }
    uint32_t word(int i) const { return at(i * 4 + (F::ODD_FIRST ? ODD : 0), 4); }
    uint32_t odd() const { return at(F::ODD_FIRST ? 0 : F::BYTES - ODD, ODD); }
    const uint64_t *grid() const { return points; }
};
template <class F> static Group unpacked(const uint8_t *block, const uint64_t *points, int number) {
    Group group{};
    uint32_t codes[8];
    F::unpack(FileWords<F>{block, points}, number, codes, group.scale, group.min);
    memcpy(group.codes, codes, 32);
    return group;
}
template <class F> static Format described(Format format) {
    format.len = F::LEN, format.bytes = F::BYTES;
    if constexpr (F::LEN == 1) {
        format.value = F::value, format.shared = FLOATS_SHARED;
    } else {
        format.group = F::GROUP, format.has_min = F::MIN, format.is_coarse = F::COARSE;
        format.is_odd_first = F::ODD_FIRST, format.has_panels = F::PANELS;
        format.place = F::place, format.unpack = unpacked<F>, format.shared = products::Tiles<F, 1>::BYTES;
    }
    return format;
}

/// A matrix of random bits as files hold it and in panels.
struct Matrix {
    const Format &format;
    int rows, cols;
    std::vector<uint8_t> file, panels;
    std::vector<Group> groups; // none of floats

    Matrix(const Format &format, int rows, int cols, const uint64_t *points)
        : format(format), rows(rows), cols(cols), file((size_t)rows * (cols / format.len) * format.bytes) {
        fill(points);
    }

    void fill(const uint64_t *points) {
        groups.clear();
        for (uint8_t &byte : file) byte = (uint8_t)source();
        if (format.value) {
            // Upper bytes that leave neither infinities nor large numbers.
            for (size_t i = format.bytes - 1; i < file.size(); i += format.bytes)
                file[i] = (uint8_t)((0x3c - below(4)) | below(2) << 7);
        } else {
            for (uint8_t *block = file.data(); block < file.data() + file.size(); block += format.bytes)
                while (!unpack(block, points))
                    for (int i = 0; i < format.bytes; i++) block[i] = (uint8_t)source();
        }
        panels = file;
        if (format.has_panels) pack();
    }

    /// Whether the block's weights are of the size of others'; then they are kept.
    bool unpack(const uint8_t *block, const uint64_t *points) {
        float largest = 0;
        std::vector<Group> all;
        for (int i = 0; i < format.len / 32; i++) {
            Group group = format.unpack(block, points, i);
            if (format.group == 32) group.scale[1] = group.scale[0], group.min[1] = group.min[0];
            for (float value : {group.scale[0], group.scale[1], group.min[0], group.min[1]})
                largest = fabsf(value) <= largest ? largest : fabsf(value);
            all.push_back(group);
        }
        if (!(largest > 1e-2f && largest < 1e2f)) return false;
        groups.insert(groups.end(), all.begin(), all.end());
        return true;
    }

    /// Of sixteen rows the words of a block one after the other, and their odd bytes: before the words, unless
    /// these begin at a multiple of 64. Rows that fill no panel stay as they are.
    void pack() {
        int odd = format.bytes % 4, word_bytes = format.bytes - odd, columns = cols / format.len;
        for (int i = 0; i < rows / 16 * 16 * columns; i++) {
            int row = i / columns, lane = row % 16;
            int start = (row / 16 * columns + i % columns) * 16 * format.bytes;
            bool is_odd_first = odd > 0 && start % 64 > 0;
            const uint8_t *block = &file[(size_t)i * format.bytes];
            const uint8_t *block_words = block + (format.is_odd_first ? odd : 0);
            uint8_t *words = &panels[start + (is_odd_first ? 16 * odd : 0)];
            uint8_t *odds = &panels[start] + (is_odd_first ? 0 : 16 * word_bytes);
            for (int j = 0; j < word_bytes / 4; j++)
                memcpy(words + (format.place(j) * 16 + lane) * 4, block_words + j * 4, 4);
            memcpy(odds + lane * odd, block + (format.is_odd_first ? 0 : word_bytes), odd);
        }
    }

    float weight(int row, int column) const {
        if (format.value) return format.value(file.data(), (size_t)row * cols + column);
        const Group &group = groups[(row * cols + column) / 32];
        int half = column / 16 % 2;
        return (float)group.codes[column % 32] * group.scale[half] - group.min[half];
    }

    /// Times a row of inputs, in the order of columns; of floats the sums of every 32nd column first.
    float product(int row, const std::vector<float> &x, const Codes &in_bytes, int input) const {
        float sum = 0, lanes[32] = {};
        for (int i = 0; i < cols && format.value; i++)
            lanes[i % 32] = fmaf(weight(row, i), x[input * cols + i], lanes[i % 32]);
        for (float lane : lanes) sum += lane;
        for (int i = 0; i < cols && !format.value; i += format.group) {
            const Group &group = groups[(row * cols + i) / 32];
            const float *extras = &in_bytes.extras[(input * cols + i) / 32 * 4];
            int dot = 0, half = i / 16 % 2;
            for (int j = 0; j < format.group; j++)
                dot += group.codes[i % 32 + j] * in_bytes.codes[input * cols + i + j];
            sum = fmaf((float)dot, group.scale[half] * extras[0], sum);
            if (format.has_min) sum = fmaf(-group.min[half], extras[format.group == 32 ? 1 : 2 + half], sum);
        }
        return sum;
    }
};

} // namespace plain
