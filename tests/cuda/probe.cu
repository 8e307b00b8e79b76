// What a card and its bus can do, for the bars that Möwe is held to: one line of JSON for each fact.
//
//   nvcc -std=c++17 -O3 -arch=native probe.cu -o probe
//   ./probe [read|copy|overlap|matrix|launch|flag|register]...    all of them where none is named
//
// Needs the CUDA runtime and nothing of Möwe's. It leaves the card as it is: no clocks are set, nothing is
// reset, no managed memory, at most 4 GB are pinned at a time. Every wait has a limit by the clock; a fact that
// fails is a line too.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

using Clock = std::chrono::steady_clock;
constexpr size_t MB = 1 << 20;
constexpr double MOST_SECONDS = 20;    // of one wait
constexpr unsigned MOST_OF_ALL = 240;  // of the program
static int multiprocessors = 0;

static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

static void check(cudaError_t code, const char *what) {
    if (code == cudaSuccess) return;
    std::string error = std::string(cudaGetErrorName(code)) + ", " + cudaGetErrorString(code);
    throw std::runtime_error(std::string(what) + ": " + error);
}
#define CHECK(call) check(call, #call)

// --- What is given back by itself.

struct Event {
    cudaEvent_t event;
    Event() { CHECK(cudaEventCreate(&event)); }
    ~Event() { cudaEventDestroy(event); }
    void record(cudaStream_t stream) { CHECK(cudaEventRecord(event, stream)); }
    /// By asking again and again: a card that hangs ends the program, not the day.
    void wait() {
        auto start = Clock::now();
        for (;;) {
            cudaError_t code = cudaEventQuery(event);
            if (code != cudaErrorNotReady) return check(code, "waiting");
            if (seconds_since(start) > MOST_SECONDS) {
                printf("{\"fact\":\"error\",\"error\":\"no answer for %.0f s\"}\n", MOST_SECONDS);
                fflush(stdout), _exit(3);
            }
        }
    }
};

struct Stream {
    cudaStream_t stream;
    Stream() { CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
    ~Stream() { cudaStreamDestroy(stream); }
    operator cudaStream_t() const { return stream; }
    void wait() {
        Event event;
        event.record(stream), event.wait();
    }
};

struct Memory {
    void *start = nullptr;
    explicit Memory(size_t bytes) { CHECK(cudaMalloc(&start, bytes)); }
    ~Memory() { cudaFree(start); }
};

/// Host memory in one of its three kinds, touched before it is used.
struct Host {
    enum Kind { PAGEABLE, REGISTERED, PINNED };
    Kind kind;
    size_t bytes;
    void *start = nullptr;
    double register_seconds = 0, unregister_seconds = 0;

    Host(Kind kind, size_t bytes) : kind(kind), bytes(bytes) {
        if (kind == PINNED) {
            CHECK(cudaHostAlloc(&start, bytes, cudaHostAllocPortable));
        } else {
            start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (start == MAP_FAILED) throw std::runtime_error("the system has no such room");
        }
        memset(start, 1, bytes);
        if (kind != REGISTERED) return;
        auto from = Clock::now();
        cudaError_t code = cudaHostRegister(start, bytes, cudaHostRegisterPortable);
        register_seconds = seconds_since(from);
        if (code != cudaSuccess) munmap(start, bytes);
        check(code, "cudaHostRegister");
    }
    void unregister() {
        auto from = Clock::now();
        if (kind == REGISTERED) cudaHostUnregister(start);
        unregister_seconds = seconds_since(from), kind = kind == REGISTERED ? PAGEABLE : kind;
    }
    ~Host() {
        unregister();
        if (kind == PINNED) cudaFreeHost(start);
        else munmap(start, bytes);
    }
    static const char *name(Kind kind) {
        return kind == PAGEABLE ? "pageable" : kind == REGISTERED ? "registered" : "pinned";
    }
};

/// Milliseconds of work on a stream by the card's clock: the middle of five times, after a first one.
static double middle_ms(Stream &stream, const std::function<void()> &work) {
    std::vector<float> all;
    for (int turn = 0; turn < 6; turn++) {
        Event start, end;
        start.record(stream), work(), end.record(stream), end.wait();
        CHECK(cudaGetLastError());
        float ms = 0;
        CHECK(cudaEventElapsedTime(&ms, start.event, end.event));
        if (turn) all.push_back(ms);
    }
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
}

// --- Reading the card's memory.

/// Sixteen bytes a lane, one warp beside the other.
__global__ void __launch_bounds__(256) read_straight(const uint4 *from, size_t count, uint32_t *never) {
    size_t step = (size_t)gridDim.x * blockDim.x * 4;
    uint32_t sum = 0;
    for (size_t at = (size_t)blockIdx.x * blockDim.x * 4 + threadIdx.x; at < count; at += step) {
        uint4 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            size_t place = at + (size_t)i * blockDim.x;
            words[i] = place < count ? __ldcs(from + place) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < 4; i++) sum ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
    }
    if (sum == 0x5eed) *never = sum;
}

/// As the panels of the CPU want it: a warp owns two panels of sixteen rows, a lane is a row, and one word of
/// all lanes is two runs of 64 bytes.
__global__ void __launch_bounds__(128)
    read_panels(const uint32_t *from, size_t panel_words, size_t panels, uint32_t *never) {
    size_t warp = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    size_t panel = warp * 2 + (threadIdx.x & 31) / 16;
    if (panel >= panels) return;
    const uint32_t *at = from + panel * panel_words + (threadIdx.x & 15);
    uint32_t sum = 0;
    for (size_t word = 0; word < panel_words; word += 16 * 16) {
        uint32_t words[16];
#pragma unroll
        for (int i = 0; i < 16; i++) words[i] = __ldcs(at + word + i * 16);
#pragma unroll
        for (int i = 0; i < 16; i++) sum ^= words[i];
    }
    if (sum == 0x5eed) *never = sum;
}

static void measure_read() {
    constexpr size_t MOST = 4096 * MB, PANEL_WORDS = 16 * 1024; // 16 rows of 4 KB
    Stream stream;
    Memory memory(MOST), never(4);
    CHECK(cudaMemsetAsync(memory.start, 0xa5, MOST, stream));
    for (size_t mb : {16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
        size_t bytes = mb * MB;
        int repeats = (int)std::max<size_t>(1, 2048 / mb);
        double straight = middle_ms(stream, [&] {
            for (int i = 0; i < repeats; i++)
                read_straight<<<multiprocessors * 16, 256, 0, stream>>>(
                    (const uint4 *)memory.start, bytes / 16, (uint32_t *)never.start);
        });
        size_t panels = bytes / 4 / PANEL_WORDS;
        double by_panels = middle_ms(stream, [&] {
            for (int i = 0; i < repeats; i++)
                read_panels<<<(unsigned)((panels + 7) / 8), 128, 0, stream>>>(
                    (const uint32_t *)memory.start, PANEL_WORDS, panels, (uint32_t *)never.start);
        });
        double gb = (double)bytes * repeats / 1e6;
        printf("{\"fact\":\"read\",\"mb\":%zu,\"gb_s\":%.1f,\"panels_gb_s\":%.1f}\n", mb, gb / straight,
               gb / by_panels);
    }
}

// --- Copies.

static void measure_copy() {
    constexpr size_t BYTES = 512 * MB;
    Stream stream;
    Memory memory(BYTES);
    for (auto kind : {Host::PINNED, Host::REGISTERED, Host::PAGEABLE}) {
        Host host(kind, BYTES);
        // Of a small expert, a large one, and all.
        for (size_t bytes : {(size_t)64 << 10, 27 * MB / 10 / 4096 * 4096, 99 * MB, BYTES}) {
            int repeats = (int)std::max<size_t>(1, 64 * MB / bytes);
            auto rate = [&](cudaMemcpyKind way) {
                double ms = middle_ms(stream, [&] {
                    for (int i = 0; i < repeats; i++) {
                        bool is_in = way == cudaMemcpyHostToDevice;
                        void *to = is_in ? memory.start : host.start, *from = is_in ? host.start : memory.start;
                        CHECK(cudaMemcpyAsync(to, from, bytes, way, stream));
                    }
                });
                return (double)bytes * repeats / 1e6 / ms;
            };
            double in = rate(cudaMemcpyHostToDevice), out = rate(cudaMemcpyDeviceToHost);
            printf("{\"fact\":\"copy\",\"memory\":\"%s\",\"kb\":%zu,\"h2d_gb_s\":%.2f,\"d2h_gb_s\":%.2f}\n",
                   Host::name(kind), bytes >> 10, in, out);
        }
    }
}

static void measure_register() {
    for (size_t mb : {64, 256, 1024, 4096}) {
        Host host(Host::REGISTERED, mb * MB);
        host.unregister();
        printf("{\"fact\":\"register\",\"mb\":%zu,\"ms_per_mb\":%.4f,\"unregister_ms_per_mb\":%.4f}\n", mb,
               host.register_seconds * 1e3 / (double)mb, host.unregister_seconds * 1e3 / (double)mb);
    }
}

// --- Work that keeps the card busy, and copies beside it.

__global__ void busy(int rounds, float *never) {
    float a = (float)threadIdx.x, b = 1.0001f;
    for (int i = 0; i < rounds; i++) a = a * b + 0.5f, b = b * 0.9999f + 0.0001f;
    if (a == 12345.678f) *never = b;
}

static void measure_overlap() {
    constexpr size_t BYTES = 512 * MB;
    Stream computes, copies;
    Memory memory(BYTES), never(4);
    auto compute = [&] { busy<<<multiprocessors * 4, 256, 0, computes>>>(1 << 20, (float *)never.start); };
    double compute_ms = middle_ms(computes, compute);
    for (auto kind : {Host::PINNED, Host::REGISTERED, Host::PAGEABLE})
        for (auto way : {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost}) {
            Host host(kind, BYTES);
            bool is_in = way == cudaMemcpyHostToDevice;
            auto copy = [&] {
                void *to = is_in ? memory.start : host.start, *from = is_in ? host.start : memory.start;
                CHECK(cudaMemcpyAsync(to, from, BYTES, way, copies));
            };
            double copy_ms = middle_ms(copies, copy), both_ms = 1e9;
            for (int turn = 0; turn < 3; turn++) {
                auto start = Clock::now();
                compute(), copy();
                computes.wait(), copies.wait();
                both_ms = std::min(both_ms, seconds_since(start) * 1e3);
            }
            double hidden = (compute_ms + copy_ms - both_ms) / std::min(compute_ms, copy_ms);
            printf("{\"fact\":\"overlap\",\"memory\":\"%s\",\"way\":\"%s\",\"compute_ms\":%.2f,"
                   "\"copy_ms\":%.2f,\"both_ms\":%.2f,\"hidden_share\":%.2f}\n",
                   Host::name(kind), is_in ? "h2d" : "d2h", compute_ms, copy_ms, both_ms, hidden);
        }
}

// --- Products of matrices, nothing else: eight sums in flight for each warp.

constexpr int ROUNDS = 4096, SUMS = 8;

__global__ void __launch_bounds__(256) only_s8(int *never) {
    int sums[SUMS][4] = {};
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = threadIdx.x * 0x01010101u + i;
    for (int i = 0; i < 2; i++) b[i] = threadIdx.x * 0x00010203u + i;
    for (int round = 0; round < ROUNDS; round++)
#pragma unroll
        for (int s = 0; s < SUMS; s++)
            asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+r"(sums[s][0]), "+r"(sums[s][1]), "+r"(sums[s][2]), "+r"(sums[s][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    int all = 0;
#pragma unroll
    for (int s = 0; s < SUMS; s++) all ^= sums[s][0] ^ sums[s][1] ^ sums[s][2] ^ sums[s][3];
    if (all == 0x5eed) *never = all;
}

__global__ void __launch_bounds__(256) only_half(int *never) {
    float sums[SUMS][4] = {};
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = 0x1c001c00u + threadIdx.x + i; // small halves, none of them zero
    for (int i = 0; i < 2; i++) b[i] = 0x1c001c00u + threadIdx.x * 3 + i;
    for (int round = 0; round < ROUNDS; round++)
#pragma unroll
        for (int s = 0; s < SUMS; s++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                         "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(sums[s][0]), "+f"(sums[s][1]), "+f"(sums[s][2]), "+f"(sums[s][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    float all = 0;
#pragma unroll
    for (int s = 0; s < SUMS; s++) all += sums[s][0] + sums[s][1] + sums[s][2] + sums[s][3];
    if (all == 12345.678f) *never = 1;
}

static void measure_matrix() {
    Stream stream;
    Memory never(4);
    int blocks = multiprocessors * 8;
    double products = (double)blocks * 8 /* warps */ * ROUNDS * SUMS * 16 * 8;
    double s8 = middle_ms(stream, [&] { only_s8<<<blocks, 256, 0, stream>>>((int *)never.start); });
    double half = middle_ms(stream, [&] { only_half<<<blocks, 256, 0, stream>>>((int *)never.start); });
    printf("{\"fact\":\"matrix\",\"kind\":\"s8 m16n8k32\",\"tmac_s\":%.1f}\n", products * 32 / s8 / 1e9);
    printf("{\"fact\":\"matrix\",\"kind\":\"f16 m16n8k16\",\"tmac_s\":%.1f}\n", products * 16 / half / 1e9);
}

// --- Starting kernels.

__global__ void empty() {}

static void measure_launch() {
    constexpr int COUNT = 1000;
    Stream stream;
    auto all = [&] {
        for (int i = 0; i < COUNT; i++) empty<<<1, 32, 0, stream>>>();
    };
    auto wall_us = [&](const std::function<void()> &work) {
        std::vector<double> times;
        for (int turn = 0; turn < 6; turn++) {
            auto start = Clock::now();
            work(), stream.wait();
            if (turn) times.push_back(seconds_since(start) * 1e6 / COUNT);
        }
        std::sort(times.begin(), times.end());
        return times[times.size() / 2];
    };
    double wall = wall_us(all), card = middle_ms(stream, all) * 1e3 / COUNT;
    printf("{\"fact\":\"launch\",\"way\":\"one by one\",\"wall_us\":%.3f,\"card_us\":%.3f}\n", wall, card);

    cudaGraph_t graph;
    cudaGraphExec_t ready;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    all();
    CHECK(cudaStreamEndCapture(stream, &graph));
    auto start = Clock::now();
    CHECK(cudaGraphInstantiateWithFlags(&ready, graph, 0));
    double make_ms = seconds_since(start) * 1e3;
    auto launch = [&] { CHECK(cudaGraphLaunch(ready, stream)); };
    wall = wall_us(launch), card = middle_ms(stream, launch) * 1e3 / COUNT;
    printf("{\"fact\":\"launch\",\"way\":\"graph\",\"wall_us\":%.3f,\"card_us\":%.3f,\"make_ms\":%.2f}\n", wall,
           card, make_ms);
    CHECK(cudaGraphExecDestroy(ready));
    CHECK(cudaGraphDestroy(graph));
}

// --- A word to the host and back, without a copy or a call of the driver's.

constexpr unsigned long long MOST_NANOSECONDS = 2000000000; // of the whole kernel

__global__ void ask(volatile uint32_t *question, volatile uint32_t *answer, uint32_t count,
                    volatile uint32_t *late) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    for (uint32_t turn = 1; turn <= count; turn++) {
        *question = turn;
        __threadfence_system();
        while (*answer != turn) {
            asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
            if (now - start > MOST_NANOSECONDS) {
                *late = turn;
                return;
            }
        }
    }
}

static void measure_flag() {
    constexpr uint32_t COUNT = 2000;
    Stream stream;
    uint32_t *host = nullptr, *card = nullptr;
    CHECK(cudaHostAlloc((void **)&host, 4096, cudaHostAllocMapped));
    CHECK(cudaHostGetDevicePointer((void **)&card, host, 0));
    memset(host, 0, 4096);
    volatile uint32_t *question = host, *answer = host + 64, *late = host + 128; // lines of their own
    Event end;
    // The first turn is not counted: it loads the kernel.
    ask<<<1, 1, 0, stream>>>(card, card + 64, 0, card + 128);
    stream.wait();
    ask<<<1, 1, 0, stream>>>(card, card + 64, COUNT, card + 128);
    CHECK(cudaGetLastError());
    end.record(stream);
    auto start = Clock::now(), first = start;
    uint32_t seen = 0;
    while (seen < COUNT && seconds_since(start) < 4) {
        for (int spin = 0; spin < 1000 && *question == seen; spin++) {} // asking the clock takes time too
        if (*question == seen) continue;
        std::atomic_thread_fence(std::memory_order_acquire);
        if (!seen++) first = Clock::now();
        *answer = seen;
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    double us = seconds_since(first) * 1e6 / COUNT;
    end.wait();
    if (seen < COUNT || *late) {
        uint32_t turn = *late ? *late : seen;
        printf("{\"fact\":\"flag\",\"error\":\"no answer at turn %u of %u\"}\n", turn, COUNT);
    } else {
        printf("{\"fact\":\"flag\",\"round_trip_us\":%.3f}\n", us);
    }
    cudaFreeHost(host);
}

// ---

/// Half a second of work: an idle card has turned its clocks down.
static void wake() {
    Stream stream;
    Memory never(4);
    for (auto start = Clock::now(); seconds_since(start) < 0.5; stream.wait())
        busy<<<multiprocessors * 4, 256, 0, stream>>>(1 << 18, (float *)never.start);
    CHECK(cudaGetLastError());
}

static void describe() {
    cudaDeviceProp card{};
    int driver = 0, runtime = 0;
    CHECK(cudaGetDeviceProperties(&card, 0));
    CHECK(cudaDriverGetVersion(&driver));
    CHECK(cudaRuntimeGetVersion(&runtime));
    multiprocessors = card.multiProcessorCount;
    printf("{\"fact\":\"card\",\"name\":\"%s\",\"capability\":\"%d.%d\",\"multiprocessors\":%d,"
           "\"memory_mb\":%zu,\"l2_mb\":%.1f,\"copy_engines\":%d,\"shared_kb_on_request\":%zu,"
           "\"driver\":%d,\"runtime\":%d}\n",
           card.name, card.major, card.minor, card.multiProcessorCount, card.totalGlobalMem / MB,
           (double)card.l2CacheSize / MB, card.asyncEngineCount, card.sharedMemPerBlockOptin / 1024, driver,
           runtime);
    wake();
}

int main(int count, char **arguments) {
    alarm(MOST_OF_ALL); // whatever else goes wrong
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const std::pair<const char *, void (*)()> all[] = {
        {"card", describe},           {"read", measure_read},     {"copy", measure_copy},
        {"overlap", measure_overlap}, {"matrix", measure_matrix}, {"launch", measure_launch},
        {"flag", measure_flag},       {"register", measure_register}};
    int failures = 0;
    for (auto &[name, measure] : all) {
        auto is_asked = [&, name = name](const char *argument) { return !strcmp(argument, name); };
        bool is_one_of_them = std::any_of(arguments + 1, arguments + count, is_asked);
        if (count > 1 && measure != describe && !is_one_of_them) continue;
        try {
            measure();
        } catch (const std::exception &error) {
            failures++;
            printf("{\"fact\":\"%s\",\"error\":\"%s\"}\n", name, error.what());
            // Too little memory harms nothing else; a kernel that went wrong spoils all that follows.
            if (cudaGetLastError(), cudaPeekAtLastError() != cudaSuccess || measure == describe) return 1;
        }
    }
    return failures ? 1 : 0;
}
