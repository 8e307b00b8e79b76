// A GPU for kernels under test, on one CPU thread: what device.h promises, in plain C++ (gcc or clang, Linux).
//
// Every CUDA thread of a block is a fiber. A fiber runs until it has to wait: for its warp in a collective step, or
// for its block at a barrier. Which one runs next is drawn from a seed, so code that relies on lanes running in
// step, or on one warp being ahead of another, computes something else under some seed. Misuse ends the program:
// lanes of a warp in different collective steps, threads that left before a barrier, shared memory that was not
// asked for.
//
// Compiled with -fsanitize=address, shared memory and all buffers have red zones. Compiled with -fsanitize=thread,
// each fiber is a thread of its own to the detector and only barriers and collectives order them: a missing barrier
// is reported as the data race it is, with both source lines.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <ucontext.h>
#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char *, int);
extern "C" void AnnotateIgnoreReadsEnd(const char *, int);
extern "C" void AnnotateIgnoreWritesBegin(const char *, int);
extern "C" void AnnotateIgnoreWritesEnd(const char *, int);
#define TSAN(call) call
#else
#define TSAN(call) (void)0
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ASAN(call) call
#else
#define ASAN(call) (void)0
#endif

namespace emulation {

/// A place to go on from. `swapcontext` saves the signal mask with two system calls; a jump does without.
struct Place {
    ucontext_t context;
    jmp_buf jump;
    bool has_begun = false;
};

inline void swap_places(Place &from, Place &to) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    swapcontext(&from.context, &to.context);
#else
    if (_setjmp(from.jump)) return;
    if (to.has_begun) _longjmp(to.jump, 1);
    to.has_begun = true;
    setcontext(&to.context);
#endif
}

/// How a launch is run. Asynchronous copies may land when they are issued or as late as they may: both must do.
struct Schedule {
    uint32_t seed = 0;
    bool copies_are_late = true;
};

struct Copy {
    void *to;
    const void *from;
    bool valid;
};

/// What a lane brings to a collective step.
struct Lane {
    const char *step;
    uint32_t words[10];
};

struct Warp {
    Lane lanes[2][32]; // in turns: a lane may be one step ahead of another
    int arrived = 0, generation = 0, alive = 0;
};

struct Fiber {
    Place place;
    std::vector<uint8_t> stack;
    int thread = 0;
    bool done = false;
    const int *awaited = nullptr; // a generation that has to change before the fiber goes on
    int seen = 0;
    std::vector<std::vector<Copy>> copies; // groups under way, the open one last
    void *tsan = nullptr, *asan = nullptr;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::function<void()> kernel;
    uint8_t *shared = nullptr;
    size_t shared_bytes = 0;
    int x = 0, y = 0, arrived = 0, generation = 0, alive = 0;
    Schedule schedule;
    Place home;
    Fiber *current = nullptr;
    void *home_tsan = nullptr, *home_asan = nullptr;
    const void *home_stack = nullptr;
    size_t home_size = 0;
};

inline thread_local Block *block;

/// While it lives, the race detector does not look: the emulation's own books are no part of the kernel.
struct Books {
    Books() {
        TSAN(AnnotateIgnoreReadsBegin(__FILE__, __LINE__));
        TSAN(AnnotateIgnoreWritesBegin(__FILE__, __LINE__));
    }
    ~Books() {
        TSAN(AnnotateIgnoreReadsEnd(__FILE__, __LINE__));
        TSAN(AnnotateIgnoreWritesEnd(__FILE__, __LINE__));
    }
};

/// For messages; whoever launches may set it.
inline thread_local const char *kernel_name = "a kernel";

[[noreturn]] inline void fail(const char *what) {
    fprintf(stderr, "emulation: %s (%s, block %d,%d thread %d)\n", what, kernel_name, block->x, block->y,
            block->current ? block->current->thread : -1);
    abort();
}

/// Back to the scheduler, which learns nothing of what this fiber did: only meetings order fibers.
inline void to_home([[maybe_unused]] bool forever) {
    Fiber *fiber;
    [[maybe_unused]] void *home;
    {
        Books books; // the block lies on the launcher's stack, which is used again for other things
        fiber = block->current, home = block->home_tsan;
    }
    TSAN(__tsan_switch_to_fiber(home, __tsan_switch_to_fiber_no_sync));
    ASAN(__sanitizer_start_switch_fiber(forever ? nullptr : &fiber->asan, block->home_stack, block->home_size));
    swap_places(fiber->place, block->home);
    ASAN(__sanitizer_finish_switch_fiber(fiber->asan, &block->home_stack, &block->home_size));
}

/// A meeting of `expected` fibers.
inline void meet(int &arrived, int &generation, int expected) {
    TSAN(__tsan_release(&generation));
    bool is_last;
    {
        Books books;
        block->current->awaited = &generation, block->current->seen = generation;
        is_last = ++arrived == expected;
        if (is_last) arrived = 0, generation++;
    }
    if (!is_last) to_home(false);
    TSAN(__tsan_acquire(&generation));
}

inline void run_fiber() {
    ASAN(__sanitizer_finish_switch_fiber(nullptr, &block->home_stack, &block->home_size));
    block->kernel();
    TSAN(__tsan_release(&block->alive));
    {
        Books books;
        Fiber *fiber = block->current;
        for (auto &group : fiber->copies)
            if (!group.empty()) fail("a thread ends with copies under way");
        fiber->done = true;
        block->alive--, block->warps[fiber->thread / 32].alive--;
    }
    to_home(true);
}

inline void run_block(std::mt19937 &random) {
    int threads = (int)block->fibers.size();
    block->arrived = 0, block->alive = threads;
    block->warps.assign((threads + 31) / 32, Warp());
    memset(block->shared, 0xff, block->shared_bytes); // not a number, whatever it is read as
    for (int i = 0; i < threads; i++) {
        Fiber &fiber = block->fibers[i];
        fiber.thread = i, fiber.done = false, fiber.awaited = nullptr, fiber.copies.assign(1, {});
        fiber.stack.resize(64 << 10);
        ucontext_t &context = fiber.place.context;
        getcontext(&context);
        context.uc_stack.ss_sp = fiber.stack.data(), context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&context, run_fiber, 0);
        fiber.place.has_begun = false;
        TSAN(if (!fiber.tsan) fiber.tsan = __tsan_create_fiber(0));
        block->warps[i / 32].alive++;
    }
    std::vector<Fiber *> ready;
    while (block->alive > 0) {
        ready.clear();
        for (Fiber &fiber : block->fibers)
            if (!fiber.done && (!fiber.awaited || *fiber.awaited != fiber.seen)) ready.push_back(&fiber);
        if (ready.empty()) fail("all threads wait for others: a barrier or collective that not all of them reach");
        std::shuffle(ready.begin(), ready.end(), random);
        for (Fiber *fiber : ready) {
            block->current = fiber, fiber->awaited = nullptr;
            TSAN(__tsan_switch_to_fiber(fiber->tsan, 0)); // what came before the block is over
            ASAN(__sanitizer_start_switch_fiber(&block->home_asan, fiber->stack.data(), fiber->stack.size()));
            swap_places(block->home, fiber->place);
            ASAN(__sanitizer_finish_switch_fiber(block->home_asan, nullptr, nullptr));
            block->current = nullptr;
        }
    }
    TSAN(__tsan_acquire(&block->alive));
}

/// Runs a kernel over a grid, block after block, in an order drawn from the seed.
inline void launch(int grid_x, int grid_y, int threads, size_t shared_bytes, Schedule schedule,
                   std::function<void()> kernel) {
    Books books;
    Block here;
    block = &here;
    here.home.has_begun = true;
    here.schedule = schedule, here.kernel = std::move(kernel), here.fibers.resize(threads);
    // Stacks are kept from launch to launch: to make and clear them takes longer than most kernels.
    static thread_local std::vector<std::vector<uint8_t>> stacks;
    for (Fiber &fiber : here.fibers)
        if (!stacks.empty()) fiber.stack = std::move(stacks.back()), stacks.pop_back();
    here.shared_bytes = shared_bytes,
    here.shared = (uint8_t *)aligned_alloc(16, (shared_bytes + 15) / 16 * 16 + 16);
    TSAN(here.home_tsan = __tsan_get_current_fiber());
    std::mt19937 random(schedule.seed);
    std::vector<int> order(grid_x * grid_y);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (int number : order) here.x = number % grid_x, here.y = number / grid_x, run_block(random);
#if defined(__SANITIZE_THREAD__)
    for (Fiber &fiber : here.fibers) __tsan_destroy_fiber(fiber.tsan);
#endif
    for (Fiber &fiber : here.fibers) stacks.push_back(std::move(fiber.stack));
    free(here.shared);
    block = nullptr;
}

/// One collective step of a warp: every lane's words to every lane.
inline const Lane *exchange(const char *step, const uint32_t *words, int count) {
    int thread, generation;
    {
        Books books;
        thread = block->current->thread, generation = block->warps[thread / 32].generation;
        if (block->warps[thread / 32].alive != 32) fail("a collective step in a warp that threads have left");
    }
    Warp &warp = block->warps[thread / 32];
    Lane *lanes = warp.lanes[generation & 1];
    int lane = thread % 32;
    lanes[lane].step = step;
    memcpy(lanes[lane].words, words, count * 4);
    meet(warp.arrived, warp.generation, 32);
    for (int i = 0; i < 32; i++)
        if (strcmp(lanes[i].step, step)) fail("lanes of a warp are in different collective steps");
    return lanes;
}

inline std::vector<std::vector<Copy>> &copies() {
    Books books;
    return block->current->copies;
}

inline void land(std::vector<Copy> &group) {
    for (Copy &copy : group) copy.valid ? (void)memcpy(copy.to, copy.from, 16) : (void)memset(copy.to, 0, 16);
    group.clear();
}

} // namespace emulation

#define KERNEL static
#define DEVICE static inline
#define METHOD inline
#define UNROLL
#define BOUNDS(threads, blocks)
#define SHARED_MEMORY(name) uint8_t *name = emulation::block->shared

struct alignas(16) Words4 {
    uint32_t x, y, z, w;
};

DEVICE int thread_x() {
    emulation::Books books;
    return emulation::block->current->thread;
}
DEVICE int block_x() { return emulation::block->x; }
DEVICE int block_y() { return emulation::block->y; }
DEVICE void sync_block() {
    auto &b = *emulation::block;
    {
        emulation::Books books;
        if (b.alive != (int)b.fibers.size()) emulation::fail("a barrier that some threads have left before");
    }
    emulation::meet(b.arrived, b.generation, (int)b.fibers.size());
}
DEVICE void sync_warp() { emulation::exchange("sync_warp", nullptr, 0); }
DEVICE float shuffle_xor(float value, int mask) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const emulation::Lane *lanes = emulation::exchange("shuffle", &bits, 1);
    memcpy(&value, &lanes[(thread_x() & 31) ^ mask].words[0], 4);
    return value;
}
DEVICE uint32_t votes(bool flag) {
    uint32_t own = flag, bits = 0;
    const emulation::Lane *lanes = emulation::exchange("ballot", &own, 1);
    for (int i = 0; i < 32; i++) bits |= lanes[i].words[0] << i;
    return bits;
}
DEVICE int count_bits(uint32_t bits) { return __builtin_popcount(bits); }
DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE float bits_to_float(int bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
DEVICE int float_to_bits(float value) {
    int bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float square_root(float value) { return sqrtf(value); }
DEVICE int dot4(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return sum;
}
DEVICE float half_to_float(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 0    ? ldexpf((float)mantissa, -24)
                  : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                   : ldexpf((float)(mantissa + 1024), exponent - 25);
    return bits >> 15 ? -value : value;
}
DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t both = (uint64_t)high << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) result |= (uint32_t)(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return result;
}
DEVICE uint16_t float_to_half(float value) {
    uint32_t bits = (uint32_t)float_to_bits(value), magnitude = bits & 0x7fffffff;
    uint32_t half = 0x7fff; // not a number
    if (magnitude <= 0x7f800000) {
        // Steps of 2^-24, or of the last of eleven bits; from 65520 up it is infinity.
        uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
        uint32_t subnormal = (uint32_t)nearbyintf(fminf(fabsf(value), 1.0f) * 16777216.0f);
        half = magnitude >= 0x477ff000 ? 0x7c00 : magnitude < 0x38800000 ? subnormal : normal;
    }
    return (uint16_t)(half | (bits >> 16 & 0x8000));
}
DEVICE int arrive(int *counter) { return (*counter)++; }
DEVICE float load_from_others(const float *at) { return *at; }
DEVICE Words4 load_stream(const void *at) {
    if ((uintptr_t)at % 16) emulation::fail("a load of 16 bytes from an address that 16 does not divide");
    return *(const Words4 *)at;
}
DEVICE uint32_t load_word(const uint32_t *at) { return *at; }
DEVICE void copy_async(void *shared, const void *global, bool valid) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16)
        emulation::fail("a copy of 16 bytes at an address that 16 does not divide");
    std::vector<emulation::Copy> group{{shared, global, valid}};
    if (emulation::block->schedule.copies_are_late)
        emulation::copies().back().push_back(group[0]);
    else
        emulation::land(group);
}
DEVICE void copies_commit() { emulation::copies().push_back({}); }
template <int left> DEVICE void copies_wait() {
    auto &groups = emulation::copies();
    while ((int)groups.size() - 1 > left) {
        emulation::land(groups.front());
        groups.erase(groups.begin());
    }
}
/// The fragments as PTX ISA draws them for mma.m16n8k16 and mma.m16n8k32 with 8-bit operands.
template <int HALVES>
DEVICE void mma_s8(int (&sums)[4], const uint32_t (&a)[2 * HALVES], const uint32_t (&b)[HALVES],
                   const int (&c)[4]) {
    uint32_t words[3 * HALVES];
    std::copy_n(a, 2 * HALVES, words), std::copy_n(b, HALVES, words + 2 * HALVES);
    const emulation::Lane *lanes = emulation::exchange(HALVES == 2 ? "mma k32" : "mma k16", words, 3 * HALVES);
    int lane = thread_x() & 31;
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + (i >> 1) * 8, column = lane % 4 * 2 + (i & 1);
        sums[i] = c[i];
        for (int k = 0; k < 16 * HALVES; k += 4) {
            const emulation::Lane &left = lanes[row % 8 * 4 + k % 16 / 4], &right = lanes[column * 4 + k % 16 / 4];
            sums[i] = dot4((int)left.words[row / 8 + k / 16 * 2], (int)right.words[2 * HALVES + k / 16], sums[i]);
        }
    }
}
DEVICE void mma_s8(int (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
    mma_s8<2>(sums, a, b, c);
}
DEVICE void mma_s8(int (&sums)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int (&c)[4]) {
    mma_s8<1>(sums, a, b, c);
}
