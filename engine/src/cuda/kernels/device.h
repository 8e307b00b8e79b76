// What kernels may use of a GPU, twice: as CUDA for nvcc, and as plain C++ for a CPU (emulation.h).
//
// Kernels include this file alone and name no intrinsic, no inline assembly and no CUDA keyword that is not
// declared here. So the very source that runs on a GPU also runs under a debugger, an address sanitizer and a race
// detector.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_fp16.h>

#define KERNEL extern "C" __global__
#define DEVICE static __device__ __forceinline__
/// The same for functions of a struct that need it.
#define METHOD __device__ __forceinline__
/// All shared memory of the block, of the size that the launch names.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) uint8_t name[]
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define UNROLL _Pragma("unroll")

struct alignas(16) Words4 {
    uint32_t x, y, z, w;
};

DEVICE int thread_x() { return threadIdx.x; }
DEVICE int block_x() { return blockIdx.x; }
DEVICE int block_y() { return blockIdx.y; }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
/// A bit for each lane, in all of them.
DEVICE uint32_t votes(bool flag) { return __ballot_sync(~0u, flag); }
DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
/// a * b + c in one rounding, on both sides: compiled without contraction, bits are the same.
DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float bits_to_float(int bits) { return __int_as_float(bits); }
DEVICE int float_to_bits(float value) { return __float_as_int(value); }
DEVICE float square_root(float value) { return __fsqrt_rn(value); }
/// sum + a.b over four signed bytes.
DEVICE int dot4(int a, int b, int sum) { return __dp4a(a, b, sum); }
DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
/// The nearest half, ties to even.
DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
/// Counts this block in and returns how many came before it, to be called by one thread behind a barrier. What the blocks
/// before have written is there for `load_from_others`.
DEVICE int arrive(int *counter) {
    __threadfence();
    int before = atomicAdd(counter, 1);
    __threadfence();
    return before;
}
/// What another block has written before it arrived.
DEVICE float load_from_others(const float *at) { return *(const volatile float *)at; }
/// Four of the bytes of `low` (0 to 3) and `high` (4 to 7), one for each of the lower four nibbles of `selector`,
/// whose highest bits do not count.
DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    return __byte_perm(low, high, selector);
}
/// 16 bytes that are read once: past the first-level cache.
DEVICE Words4 load_stream(const void *at) {
    Words4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}
DEVICE uint32_t load_word(const uint32_t *at) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}
/// Starts copying 16 bytes from global to shared memory; zeros where `valid` is false.
DEVICE void copy_async(void *shared, const void *global, bool valid) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `left` groups of this thread's copies are under way.
template <int left> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory"); }
/// c + a (16 x 32, bytes) * b (32 x 8, bytes) over a warp; see PTX ISA, "mma.m16n8k32".
DEVICE void mma_s8(int (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
/// The same of sixteen columns; see "mma.m16n8k16".
DEVICE void mma_s8(int (&sums)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
        : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

#else
#include "emulation.h"
#endif
