// How router logits become choices and weights: by a block of 128 threads, for a row.
#pragma once
#include "steps_math.cuh"

/// Bytes of shared memory.
#define ROUTE_SHARED(experts) ((experts) * 20)

namespace steps {

/// How a row's experts are chosen. No groups: 0.
struct Routing {
    const float *choice_bias; // or null
    int experts, used, gating, groups, groups_used, groups_counted, normalise;
    float weight_scale, threshold;
    const float *expert_scale; // or null
};

/// Keeps the keys of the best groups only; of equal groups the first counts. Ends with a barrier.
DEVICE void leave_best_groups(float *keys, float *worths, int *is_there, int experts, int groups,
                              int groups_used, int groups_counted) {
    int size = experts / groups;
    for (int group = thread_x(); group < groups; group += THREADS) {
        float best = -infinity(), second = -infinity();
        for (int i = 0; i < size; i++) {
            float key = keys[group * size + i];
            if (key > best)
                second = best, best = key;
            else if (key > second)
                second = key;
        }
        worths[group] = groups_counted == 1 || size == 1 ? best : best + second;
        is_there[group] = keys[group * size] != -infinity();
    }
    sync_block();
    for (int group = thread_x(); group < groups; group += THREADS) {
        // Groups go from the worst on, of equal ones the last; so does this one where enough do not go before
        // it.
        int before = 0;
        for (int i = 0; i < groups; i++)
            before += is_there[i] && (worths[i] < worths[group] || (worths[i] == worths[group] && i > group));
        if (is_there[group] && before < groups - groups_used)
            for (int i = 0; i < size; i++) keys[group * size + i] = -infinity();
    }
    sync_block();
}

/// The places of this thread's keys, from the largest on, of equals the first; the first `used` of them are
/// chosen. Ends with a barrier.
DEVICE void choose(const float *keys, const float *scores, int experts, int used, int *chosen,
                   float *chosen_scores) {
    for (int expert = thread_x(); expert < experts; expert += THREADS) {
        float key = keys[expert];
        int place = 0;
        for (int i = 0; i < expert; i++) place += keys[i] >= key;
        for (int i = expert + 1; i < experts; i++) place += keys[i] > key;
        if (place < used) chosen[place] = expert, chosen_scores[place] = scores[expert];
    }
    sync_block();
}

/// A row's experts, as model/moe.rs chooses and weighs them. Choices that the threshold leaves out are -1. Sums are
/// sequential, each thread for itself, so that equal logits give equal choices everywhere. ROUTE_SHARED(experts).
template <class Logit>
DEVICE void route_row(const Routing &by, Logit logit, int *choices, float *scores, uint8_t *shared) {
    enum { SOFTMAX, SIGMOID, SOFTMAX_CHOSEN };
    const int experts = by.experts, used = by.used, gating = by.gating, groups = by.groups;
    float *values = (float *)shared, *keys = values + experts;
    float *worths = keys + experts, *finals = worths + experts;
    int *chosen = (int *)(finals + experts);
    for (int i = thread_x(); i < experts; i += THREADS)
        values[i] = gating == SIGMOID ? sigmoid(logit(i)) : logit(i);
    sync_block();
    if (gating == SOFTMAX) {
        float largest = -infinity(), sum = 0.0f;
        for (int i = 0; i < experts; i++) largest = larger(values[i], largest);
        for (int i = thread_x(); i < experts; i += THREADS) keys[i] = exponential(values[i] - largest);
        sync_block();
        for (int i = 0; i < experts; i++) sum += keys[i];
        for (int i = thread_x(); i < experts; i += THREADS) values[i] = keys[i] / sum;
        sync_block();
    }
    for (int i = thread_x(); i < experts; i += THREADS)
        keys[i] = by.choice_bias ? values[i] + by.choice_bias[i] : values[i];
    sync_block();
    if (groups) leave_best_groups(keys, worths, chosen, experts, groups, by.groups_used, by.groups_counted);
    // What is not a number counts as smallest.
    for (int i = thread_x(); i < experts; i += THREADS) keys[i] = larger(keys[i], -infinity());
    sync_block();
    choose(keys, by.choice_bias || groups ? values : keys, experts, used, chosen, finals);
    if (gating == SOFTMAX_CHOSEN) {
        float largest = -infinity();
        for (int i = 0; i < used; i++) largest = larger(finals[i], largest);
        sync_block();
        for (int i = thread_x(); i < used; i += THREADS) finals[i] = exponential(finals[i] - largest);
        sync_block();
    }
    float sum = 1.0f;
    if (by.normalise || gating == SOFTMAX_CHOSEN) {
        sum = 0.0f;
        for (int i = 0; i < used; i++) sum += finals[i];
        sum = larger(sum, 6.1035156e-5f); // llama.cpp's floor
    }
    sync_block();
    for (int i = thread_x(); i < used; i += THREADS) {
        float weight = finals[i] / sum * by.weight_scale;
        finals[i] = by.expert_scale ? weight * by.expert_scale[chosen[i]] : weight;
    }
    sync_block();
    float all = 0.0f, kept = 0.0f, factor = 1.0f;
    if (by.threshold > 0.0f) {
        for (int i = 0; i < used; i++) all += finals[i];
        for (int i = 0; i < used; i++) kept += i > 0 && finals[i] < by.threshold * all ? 0.0f : finals[i];
        if (kept > 0.0f) factor = all / kept;
    }
    for (int i = thread_x(); i < used; i += THREADS) {
        bool is_dropped = by.threshold > 0.0f && i > 0 && finals[i] < by.threshold * all;
        choices[i] = is_dropped ? -1 : chosen[i];
        scores[i] = finals[i] * factor;
    }
}

} // namespace steps
