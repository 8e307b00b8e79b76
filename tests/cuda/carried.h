// Convolutions and recurrences against plain loops, whole and in pieces, with snapshots on the way. Included by
// kernels.cpp.
#pragma once

/// Two sequences' states of three layers, the second one's numbers being those of interest, and tables that tell of them.
struct Carried {
    static constexpr int LAYERS = 3, MAX_PAGES = 2, BEHIND = LAYERS * 2 * MAX_PAGES, BEFORE = 5;
    int length; // of the layer's state
    std::vector<float> states[2], snapshots[2];
    std::vector<uint64_t> tables[2];
    uint64_t addresses[2];

    explicit Carried(int length) : length(length) {
        for (int i = 0; i < 2; i++) {
            states[i] = numbers(BEFORE + length, 1), snapshots[i].assign(BEFORE + length, NAN);
            tables[i].assign(BEHIND + 1 + 2 * along::SNAPSHOTS, 0);
        }
    }
    /// Has a sequence's states kept after `held` positions; 0: never.
    Carried &keep_at(int held) {
        for (int i = 0; i < 2; i++) {
            tables[i][2 * MAX_PAGES] = (uint64_t)(states[i].data() + BEFORE);
            tables[i][BEHIND] = (uint64_t)states[i].data();
            tables[i][BEHIND + 3] = (uint64_t)held, tables[i][BEHIND + 4] = (uint64_t)snapshots[i].data();
            addresses[i] = (uint64_t)tables[i].data();
        }
        return *this;
    }
    float *of(int sequence) { return states[sequence].data() + BEFORE; }
};

/// Rows of a step: two of the second sequence, then the others of the first.
struct Together {
    std::vector<int> runs, positions, sequences;

    Together(std::vector<int> counts, std::vector<int> first_positions) {
        int at = 0;
        for (int i = 0; i < (int)counts.size(); i++) {
            runs.push_back(at), runs.push_back(counts[i]);
            int sequence = (int)counts.size() - 1 - i;
            for (int row = 0; row < counts[i]; row++, at++)
                positions.push_back(first_positions[i] + row), sequences.push_back(sequence);
        }
    }
};

static void convolving(int channels, int taps, int activation) {
    const int rows = 7, at = 3, width = at + channels + 2, history = taps - 1;
    auto x = numbers(rows * width, 1), weights = numbers(taps * channels, 1), bias = numbers(channels, 1);
    const float *added = activation < 0 ? nullptr : bias.data();
    Together step({2, 5}, {9, 30});
    Carried carried(history * channels);
    carried.keep_at(33);
    auto want = x;
    std::vector<float> after[2], kept;
    for (int run = 0; run < 2; run++) {
        int sequence = 1 - run, first = step.runs[2 * run];
        std::vector<float> state(carried.of(sequence), carried.of(sequence) + history * channels);
        for (int row = first; row < first + step.runs[2 * run + 1]; row++) {
            for (int channel = 0; channel < channels; channel++) {
                float sum = added ? added[channel] : 0.0f, input = x[row * width + at + channel];
                for (int tap = 0; tap < history; tap++)
                    sum = fmaf(state[tap * channels + channel], weights[tap * channels + channel], sum);
                sum = fmaf(input, weights[history * channels + channel], sum);
                for (int tap = 0; tap < history; tap++)
                    state[tap * channels + channel] = tap + 1 < history ? state[(tap + 1) * channels + channel] : input;
                want[row * width + at + channel] = activation < 0 ? sum : activated(activation, sum);
            }
            if (step.positions[row] == 32) kept = state;
        }
        after[sequence] = state;
    }
    RUN(convolve, (channels + 127) / 128, 2, 0, x.data(), width, at, channels, taps, weights.data(), added, activation,
        step.runs.data(), step.positions.data(), step.sequences.data(), carried.addresses, 1, Carried::MAX_PAGES,
        Carried::BEHIND);
    same("convolve", x, want);
    for (int i = 0; i < 2; i++) {
        std::vector<float> whole(carried.states[i].begin(), carried.states[i].begin() + Carried::BEFORE);
        whole.insert(whole.end(), after[i].begin(), after[i].end());
        same("convolve, the state", carried.states[i], whole);
    }
    std::vector<float> snapshot(Carried::BEFORE, NAN);
    snapshot.insert(snapshot.end(), kept.begin(), kept.end());
    same("convolve, a snapshot", carried.snapshots[0], snapshot);
    same("convolve, no snapshot", carried.snapshots[1], std::vector<float>(carried.snapshots[1].size(), NAN));
}

/// How a recurrence is laid out in its rows.
struct Scanned {
    int key_heads, key_length, value_heads, value_length, state_at;
    bool neighbours, is_delta;

    int groups() const { return (value_length + 31) / 32; }
    int head_length() const { return groups() * key_length * 32; }
    int keys_at() const { return 4 + key_heads * key_length; }
    int values_at() const { return keys_at() + key_heads * key_length + 1; }
    int steps_at() const { return values_at() + value_heads * (value_length + 3); }
    int strengths_at() const { return steps_at() + value_heads; }
    int width() const { return strengths_at() + value_heads + 2; }
};

/// One row of one head in doubles; tells how large its sums are.
static double scan_plainly(const Scanned &s, const float *x, int head, const float *numbers_of_head, double *state,
                           double *out) {
    int key_head = s.neighbours ? head / (s.value_heads / s.key_heads) : head % s.key_heads;
    const float *query = x + 4 + key_head * s.key_length, *key = x + s.keys_at() + key_head * s.key_length;
    const float *values = x + s.values_at() + head * (s.value_length + 3);
    double length = log1p(exp((double)x[s.steps_at() + head] + numbers_of_head[0]));
    double decay = exp(numbers_of_head[1] * length), sizes = 0;
    double strength = s.is_delta ? 1 / (1 + exp(-(double)x[s.strengths_at() + head])) : length;
    for (int column = 0; column < s.value_length; column++) {
        auto at = [&](int i) -> double & { return state[(column / 32 * s.key_length + i) * 32 + column % 32]; };
        double known = 0, sum = 0, size = fabs(values[column]);
        for (int i = 0; i < s.key_length; i++) known += (at(i) *= decay) * key[i];
        double taken = (values[column] - (s.is_delta ? known : 0)) * strength;
        for (int i = 0; i < s.key_length; i++) sum += (at(i) += taken * key[i]) * query[i], size += fabs(at(i) * query[i]);
        out[column] = s.is_delta ? sum : sum + numbers_of_head[2] * values[column];
        sizes = fmax(sizes, size);
    }
    return sizes;
}

static void scanning(const Scanned &s) {
    const int rows = 7, outputs = s.value_heads * s.value_length, length = s.state_at + s.value_heads * s.head_length();
    // Keys about as long as those of a model, with which nothing grows.
    auto x = numbers(rows * s.width(), 1.7f / sqrtf((float)s.key_length)), step_bias = numbers(s.value_heads, 1), rate = numbers(s.value_heads, 1);
    auto skip = numbers(s.value_heads, 1);
    for (float &value : rate) value = -fabsf(value);
    auto run = [&](const Together &step, Carried &carried, int first) {
        std::vector<float> out(step.positions.size() * outputs, NAN);
        RUN(scan, s.value_heads * s.groups(), (int)step.runs.size() / 2, SCAN_SHARED(s.key_length),
            &x[first * s.width()], s.width(), 4, s.key_length, s.keys_at(), s.key_length, s.key_heads, s.key_length,
            s.neighbours ? s.value_heads / s.key_heads : 0, s.values_at(), s.value_length + 3, s.value_heads,
            s.value_length, s.steps_at(), step_bias.data(), rate.data(), s.is_delta ? s.strengths_at() : -1,
            s.is_delta ? nullptr : skip.data(), s.state_at, step.runs.data(), step.positions.data(),
            step.sequences.data(), carried.addresses, 1, Carried::MAX_PAGES, Carried::BEHIND, out.data());
        return out;
    };
    Carried carried(length);
    // Columns that no value has stay zeros.
    for (int i = 0; i < 2; i++)
        for (int place = s.state_at; place < length; place++)
            if ((place - s.state_at) % s.head_length() / (s.key_length * 32) * 32 + (place - s.state_at) % 32 >= s.value_length)
                carried.of(i)[place] = 0;
    Carried before = carried, pieces = carried;
    Together step({2, 5}, {9, 30});
    auto out = run(step, carried.keep_at(33), 0);
    for (int number = 0; number < 2; number++) {
        int sequence = 1 - number, first = step.runs[2 * number];
        std::vector<double> state(before.of(sequence) + s.state_at, before.of(sequence) + length);
        for (int row = first; row < first + step.runs[2 * number + 1]; row++)
            for (int head = 0; head < s.value_heads; head++) {
                std::vector<double> found(s.value_length);
                float of_head[3] = {step_bias[head], rate[head], skip[head]};
                double size = scan_plainly(s, &x[row * s.width()], head, of_head, &state[head * s.head_length()], found.data());
                for (int i = 0; i < s.value_length; i++)
                    close_to("scan", out[row * outputs + head * s.value_length + i], found[i], 4e-6 * size + 1e-6);
            }
        for (int i = 0; i < length - s.state_at; i++)
            close_to("scan, the state", carried.of(sequence)[s.state_at + i], state[i], 2e-5 * (1 + fabs(state[i])));
        expect(!memcmp(carried.of(sequence), before.of(sequence), (size_t)s.state_at * 4), "scan, what lies before");
    }
    // The first sequence's rows in two pieces, the first of which ends where the snapshot was made.
    Together one({3}, {30}), two({2}, {33});
    auto early = run(one, pieces.keep_at(0), 2);
    std::vector<float> parted(out.begin() + 2 * outputs, out.begin() + 5 * outputs), rest(out.begin() + 5 * outputs, out.end());
    same("scan, the first piece", early, parted);
    std::copy_n(pieces.of(0), s.state_at, carried.snapshots[0].data() + Carried::BEFORE); // what is not its own
    expect(!memcmp(carried.snapshots[0].data() + Carried::BEFORE, pieces.of(0), (size_t)length * 4), "scan, a snapshot");
    same("scan, the second piece", run(two, pieces, 5), rest);
    same("scan, the state in pieces", pieces.states[0], carried.states[0]);
}

static void adapting(int rows, int rank, int outputs) {
    const int at = 2, width = at + outputs + 1, experts = 3;
    auto inner = numbers(rows * rank, 1), b = numbers(experts * rank * outputs, 1);
    auto adapted = [&](const float *of, int row, int output, float value) {
        float sum = 0;
        for (int k = 0; k < rank; k++) sum = fmaf(of[k * outputs + output], inner[row * rank + k], sum);
        return value + sum;
    };
    each("add_low_rank", numbers(rows * width), width,
         [&](float *out) {
             RUN(add_low_rank, rows, (outputs + 127) / 128, 0, inner.data(), rank, b.data(), out, width, at, outputs);
         },
         [&](int row, int column, float value) {
             bool is_inside = column >= at && column < at + outputs;
             return is_inside ? adapted(b.data(), row, column - at, value) : value;
         });
    // The second expert is not here, the third has no adapter.
    std::vector<uint64_t> addresses{0, 16, 0, 16, 0, 16, 0, 16, 0}, matrices(9);
    matrices[1] = (uint64_t)b.data(), matrices[4] = (uint64_t)&b[rank * outputs];
    std::vector<int> choices(rows);
    for (int &choice : choices) choice = below(experts + 1) - 1;
    each("add_low_rank_slots", numbers(rows * outputs), outputs,
         [&](float *out) {
             RUN(add_low_rank_slots, rows, (outputs + 127) / 128, 0, inner.data(), rank, matrices.data(), 1,
                 choices.data(), addresses.data(), out, outputs);
         },
         [&](int row, int output, float value) {
             return choices[row] == 0 ? adapted(b.data(), row, output, value) : value;
         });
}
