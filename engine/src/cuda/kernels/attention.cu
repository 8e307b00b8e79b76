// The cache of keys and values, and attention over it.
//
// A page holds 256 positions of one layer's keys or values; a head's positions lie together in it. Blocks have
// 128 threads; block_x() is the row, block_y() the head. Attention goes through tiles of 128 positions that
// begin at multiples of 128 whatever the row or the window, with a running softmax as in
// engine/src/kernels/attention, and starts anew every 1024 positions: what these chunks have found is put together in their
// order, whether a block has gone through all of them or through one. So what a row becomes depends neither on the other
// rows nor on how many blocks a head has.
#include "steps_math.cuh"

/// Bytes of shared memory of `attention`.
#define ATTENTION_SHARED(key_width, value_width) (((key_width) + cache::TILE + 2 * steps::WARPS + 2 * (value_width)) * 4)

namespace cache {

using namespace steps;

constexpr int PAGE = 256;
/// Positions that a block takes at once, one for each thread; they never cross a page.
constexpr int TILE = THREADS;
/// Positions after which the running softmax starts anew; tests take fewer.
#ifndef CHUNK_OF_ATTENTION
#define CHUNK_OF_ATTENTION 1024
#endif
constexpr int CHUNK = CHUNK_OF_ATTENTION;
/// Keys that a warp takes at once, so that one waits while the others are multiplied.
constexpr int TOGETHER = 4;

/// Of numbers in the cache, as launches number them. A block of Q8_0 is a half and 32 signed bytes.
enum Format { F32, F16, Q8_0, BF16 };
constexpr int Q8_0_BYTES = 34;
enum Side { KEYS, VALUES };

DEVICE size_t row_bytes(int format, int width) {
    return format == Q8_0 ? (size_t)(width / 32) * Q8_0_BYTES : (size_t)width * (format == F32 ? 4 : 2);
}

/// Page `number` of one side of a layer.
DEVICE uint8_t *page(uint64_t table, int layer, int side, int max_pages, int number) {
    return (uint8_t *)((const uint64_t *)table)[(size_t)(layer * 2 + side) * max_pages + number];
}

/// Where a head's position lies in its page.
DEVICE size_t place(int head, int position, size_t row_bytes) {
    return ((size_t)head * PAGE + position % PAGE) * row_bytes;
}

template <int format> DEVICE float number(const uint8_t *row, int column) {
    if (format == F32) return ((const float *)row)[column];
    if (format == F16) return half_to_float(((const uint16_t *)row)[column]);
    if (format == BF16) return bits_to_float((int)((uint32_t)((const uint16_t *)row)[column] << 16));
    const uint8_t *block = row + column / 32 * Q8_0_BYTES;
    return (float)(int8_t)block[2 + column % 32] * half_to_float(*(const uint16_t *)block);
}

/// The nearest BF16, ties to even.
DEVICE uint16_t float_to_bf16(float value) {
    uint32_t bits = (uint32_t)float_to_bits(value);
    return (uint16_t)(value != value ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// A block of Q8_0 by a warp, as engine/src/quant/q8_0.rs writes it.
DEVICE void store_q8_0(float value, uint8_t *block, int lane) {
    bool is_finite = magnitude(value) < infinity();
    float largest = warp_largest(is_finite ? magnitude(value) : 0.0f);
    // What is not a number becomes 0, an infinity the largest.
    if (!is_finite) value = value != value ? 0.0f : value < 0.0f ? -largest : largest;
    float scale = largest / 127.0f;
    if (!(scale < 65520.0f)) scale = 65504.0f;
    float inverse = 1.0f / scale;
    if (!(inverse < infinity())) inverse = 0.0f;
    float code = clamp(value * inverse, -127.0f, 127.0f);
    // Halves away from zero; the addend is the largest value below one half.
    int rounded = (int)(code + (float_to_bits(code) < 0 ? -0.49999997f : 0.49999997f));
    block[2 + lane] = (uint8_t)(rounded & 255);
    if (lane == 0) *(uint16_t *)block = float_to_half(scale);
}

/// One head's key or value.
DEVICE void store_row(const float *values, int width, int format, uint8_t *row) {
    if (format == Q8_0) {
        int lane = thread_x() & 31;
        for (int block = thread_x() >> 5; block < width / 32; block += WARPS)
            store_q8_0(values[block * 32 + lane], row + block * Q8_0_BYTES, lane);
        return;
    }
    for (int i = thread_x(); i < width; i += THREADS) {
        if (format == F32)
            ((float *)row)[i] = values[i];
        else
            ((uint16_t *)row)[i] = format == F16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
    }
}

/// Products of the query with the keys `from` to `to` of a tile, a warp for each; the places of others are left
/// alone.
template <int format>
DEVICE void multiply(const float *query, const uint8_t *keys, int row_bytes, int width, int from, int to,
                     float *scores) {
    int lane = thread_x() & 31;
    for (int first = (thread_x() >> 5) * TOGETHER; first < TILE; first += WARPS * TOGETHER) {
        if (first + TOGETHER <= from || first >= to) continue;
        const uint8_t *rows[TOGETHER];
        float sums[TOGETHER];
        UNROLL for (int i = 0; i < TOGETHER; i++) {
            int seen = first + i < from ? from : first + i < to ? first + i : to - 1;
            rows[i] = keys + seen * row_bytes;
            sums[i] = 0.0f;
        }
        for (int column = lane; column < width; column += 32)
            UNROLL for (int i = 0; i < TOGETHER; i++)
                sums[i] = multiply_add(query[column], number<format>(rows[i], column), sums[i]);
        UNROLL for (int i = 0; i < TOGETHER; i++) {
            float sum = warp_sum(sums[i]);
            if (lane == 0) scores[first + i] = sum;
        }
    }
}

/// Where one query head's work lies, and what it sees.
struct Head {
    const uint64_t *keys, *values; // pages; no values where the keys' first columns are
    int kv_head, first, position;  // positions from the first seen one to the row's own
    int key_width, value_width;
};

/// What some positions have found: the largest score, and the sum of the weights against it.
struct Found {
    float largest, total;
};

/// Takes in what positions behind the others have found; the factors of both sums.
DEVICE Found put_together(Found &all, const Found &more) {
    float largest = larger(all.largest, more.largest);
    Found factors = {exponential_of_negative(all.largest - largest), exponential_of_negative(more.largest - largest)};
    all = {largest, all.total * factors.largest + more.total * factors.total};
    return factors;
}

/// The part of one query head's positions that lies in a chunk. `query` is in shared memory, multiplied with the scale;
/// `sums` are value_width of it, each thread's own.
template <int format>
DEVICE Found look(const Head &head, const float *query, float *scores, float *places, int chunk, Found found,
                  float *sums) {
    int key_bytes = (int)row_bytes(format, head.key_width);
    int value_bytes = head.values ? (int)row_bytes(format, head.value_width) : key_bytes;
    int first = head.first > chunk * CHUNK ? head.first : chunk * CHUNK;
    int last = head.position < (chunk + 1) * CHUNK ? head.position : (chunk + 1) * CHUNK - 1;
    for (int column = thread_x(); column < head.value_width; column += THREADS) sums[column] = 0.0f;
    for (int start = first / TILE * TILE; start <= last; start += TILE) {
        int from = first > start ? first - start : 0;
        int to = last + 1 - start < TILE ? last + 1 - start : TILE;
        const uint8_t *keys = (const uint8_t *)head.keys[start / PAGE] + place(head.kv_head, start, key_bytes);
        multiply<format>(query, keys, key_bytes, head.key_width, from, to, scores);
        sync_block();
        bool is_seen = thread_x() >= from && thread_x() < to;
        float score = is_seen ? scores[thread_x()] : -infinity();
        float so_far = found.largest;
        found.largest = larger(so_far, block_largest(score, places));
        float weight = is_seen ? exponential_of_negative(score - found.largest) : 0.0f;
        scores[thread_x()] = weight;
        float shrink = exponential_of_negative(so_far - found.largest);
        found.total = found.total * shrink + block_sum(weight, places + WARPS);
        const uint8_t *values = keys;
        if (head.values)
            values = (const uint8_t *)head.values[start / PAGE] + place(head.kv_head, start, value_bytes);
        for (int column = thread_x(); column < head.value_width; column += THREADS) {
            float sum = sums[column] * shrink;
            for (int position = from; position < to; position++) {
                float value = number<format>(values + position * value_bytes, column);
                sum = multiply_add(scores[position], value, sum);
            }
            sums[column] = sum;
        }
        sync_block();
    }
    return found;
}

/// Chunks of one head that other blocks go through: what they find, and how many have.
struct Parts {
    float *found; // (chunks, 2 + value_width)
    int *arrived;
    int chunk;
};

/// One query head of one row: all chunks one after the other, or with `parts` one of them; the last block that ends puts
/// them together. `together` are twice value_width of shared memory.
template <int format>
DEVICE void attend(const Head &head, const float *query, float *scores, float *places, float *together, float sink,
                   const Parts &parts, float *out) {
    float *sums = together + head.value_width;
    int begin = head.first / CHUNK, end = head.position / CHUNK;
    bool is_one = begin == end, is_shared = parts.found && !is_one;
    if (parts.found && (parts.chunk < begin || parts.chunk > end)) return; // the whole block
    Found all = {sink, sink > -infinity() ? 1.0f : 0.0f};
    for (int chunk = is_shared ? parts.chunk : begin; chunk <= end; chunk++) {
        Found none = {-infinity(), 0.0f};
        Found found = look<format>(head, query, scores, places, chunk, chunk == begin ? all : none, sums);
        float *part = parts.found + (size_t)chunk * (2 + head.value_width);
        Found factors = {0.0f, 1.0f};
        if (chunk == begin)
            all = found;
        else if (!is_shared)
            factors = put_together(all, found);
        for (int column = thread_x(); column < head.value_width; column += THREADS) {
            if (is_shared)
                part[2 + column] = sums[column];
            else if (is_one)
                out[column] = sums[column] / all.total;
            else if (chunk == begin)
                together[column] = sums[column];
            else
                together[column] = together[column] * factors.largest + sums[column] * factors.total;
        }
        if (!is_shared) continue;
        if (thread_x() == 0) part[0] = found.largest, part[1] = found.total;
        break;
    }
    if (is_one) return;
    if (is_shared) {
        sync_block();
        if (thread_x() == 0) {
            int before = arrive(parts.arrived);
            if (before == end - begin) *parts.arrived = 0; // for the next
            *(int *)scores = before;
        }
        sync_block();
        if (*(int *)scores != end - begin) return; // the whole block
        for (int chunk = begin; chunk <= end; chunk++) {
            const float *part = parts.found + (size_t)chunk * (2 + head.value_width);
            Found found = {load_from_others(part), load_from_others(part + 1)}, factors = {0.0f, 1.0f};
            if (chunk == begin)
                all = found;
            else
                factors = put_together(all, found);
            for (int column = thread_x(); column < head.value_width; column += THREADS) {
                float sum = load_from_others(part + 2 + column);
                together[column] = chunk == begin ? sum : together[column] * factors.largest + sum * factors.total;
            }
        }
    }
    for (int column = thread_x(); column < head.value_width; column += THREADS)
        out[column] = together[column] / all.total;
}

} // namespace cache

/// Writes a row's keys and values into its sequence's pages. A row's value heads are as many as its key heads,
/// with no gaps; `value_width` 0: there are none.
KERNEL void BOUNDS(steps::THREADS, 8)
    store(const float *qkv, int qkv_width, int key_at, int key_heads, int key_width, int value_at,
          int value_width, const int *positions, const int *sequences, const uint64_t *tables, int layer,
          int max_pages, int cache_format) {
    using namespace cache;
    int row = block_x(), head = block_y(), position = positions[row], number = position / PAGE;
    if (head >= key_heads) return;
    uint64_t table = tables[sequences[row]];
    const float *values = qkv + (size_t)row * qkv_width;
    size_t key_bytes = row_bytes(cache_format, key_width), value_bytes = row_bytes(cache_format, value_width);
    store_row(values + key_at + head * key_width, key_width, cache_format,
              page(table, layer, KEYS, max_pages, number) + place(head, position, key_bytes));
    if (value_width > 0)
        store_row(values + value_at + head * value_width, value_width, cache_format,
                  page(table, layer, VALUES, max_pages, number) + place(head, position, value_bytes));
}

/// Norms, rotations and the cache in one: of every query head the first two, in place, of every key head all three, which
/// goes with its value head. Blocks in y are the query heads, then the key heads. Null weights: no norm; `pairs` 0: no
/// rotation. NORM_SHARED.
KERNEL void BOUNDS(steps::THREADS, 8)
    heads(float *qkv, int qkv_width, int q_at, int q_count, int q_piece, int q_stride, const float *q_weight,
          const float *q_bias, float q_epsilon, int key_at, int key_width, const float *key_weight,
          const float *key_bias, float key_epsilon, int is_layer_norm, const float *angles, int pairs, int is_neox,
          int value_at, int value_width, const int *positions, const int *sequences, const uint64_t *tables, int layer,
          int max_pages, int cache_format) {
    using namespace cache;
    SHARED_MEMORY(shared);
    int row = block_x(), head = block_y() - q_count, position = positions[row], number = position / PAGE;
    bool is_key = head >= 0;
    float *own = qkv + (size_t)row * qkv_width;
    float *piece = own + (is_key ? key_at + head * key_width : q_at + block_y() * q_stride);
    Norm norm = is_key ? Norm{key_weight, key_bias, key_epsilon, is_layer_norm}
                       : Norm{q_weight, q_bias, q_epsilon, is_layer_norm};
    if (norm.weight) norm_piece(piece, norm, piece, is_key ? key_width : q_piece, (float *)shared);
    sync_block();
    turn(piece, angles + (size_t)row * 2 * pairs, pairs, is_neox != 0);
    if (!is_key) return; // the whole block
    sync_block();
    uint64_t table = tables[sequences[row]];
    size_t key_bytes = row_bytes(cache_format, key_width), value_bytes = row_bytes(cache_format, value_width);
    store_row(piece, key_width, cache_format,
              page(table, layer, KEYS, max_pages, number) + place(head, position, key_bytes));
    if (value_width > 0)
        store_row(own + value_at + head * value_width, value_width, cache_format,
                  page(table, layer, VALUES, max_pages, number) + place(head, position, value_bytes));
}

/// What a row's query heads see of their sequence, itself included: at most `window` positions where that is
/// not 0. `sinks` are logits, one a head, that take weight and give nothing. Keys are as wide as queries. Blocks in y are
/// heads, each with `chunks` blocks: 1, or at least as many as the longest row has, whose parts meet in `parts`, (rows,
/// heads, chunks, 2 + value_width), with a zero of `arrived` for each head of each row.
/// ATTENTION_SHARED(q_piece, value_width).
KERNEL void BOUNDS(steps::THREADS, 4)
    attention(const float *queries, int q_width, int q_at, int q_count, int q_piece, int q_stride, int kv_heads,
              int value_width, float scale, int window, const float *sinks, const int *positions,
              const int *sequences, const uint64_t *tables, int layer, int max_pages, int values_in_keys,
              int cache_format, int chunks, float *parts, int *arrived, float *out) {
    using namespace cache;
    SHARED_MEMORY(shared);
    float *query = (float *)shared, *scores = query + q_piece, *places = scores + TILE, *together = places + 2 * WARPS;
    int row = block_x(), number = block_y() / chunks, position = positions[row];
    const float *from = queries + (size_t)row * q_width + q_at + number * q_stride;
    for (int i = thread_x(); i < q_piece; i += THREADS) query[i] = from[i] * scale;
    sync_block();
    const uint64_t *pages = (const uint64_t *)tables[sequences[row]] + (size_t)layer * 2 * max_pages;
    int first = window > 0 && position + 1 > window ? position + 1 - window : 0;
    const uint64_t *values = values_in_keys ? nullptr : pages + max_pages;
    Head head = {pages, values, number * kv_heads / q_count, first, position, q_piece, value_width};
    float sink = sinks ? sinks[number] : -infinity();
    size_t place = (size_t)row * q_count + number;
    float *result = out + place * value_width;
    Parts shares = {nullptr, nullptr, 0};
    if (chunks > 1) shares = {parts + place * chunks * (2 + value_width), arrived + place, block_y() % chunks};
    switch (cache_format) {
    case F32: attend<F32>(head, query, scores, places, together, sink, shares, result); break;
    case F16: attend<F16>(head, query, scores, places, together, sink, shares, result); break;
    case Q8_0: attend<Q8_0>(head, query, scores, places, together, sink, shares, result); break;
    default: attend<BF16>(head, query, scores, places, together, sink, shares, result);
    }
}
