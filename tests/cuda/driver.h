// What the emulated driver keeps: settings, handles, streams at work, events, captures, memory.
//
// libcuda.cpp is the interface over it. One lock is around every call. Work of a stream runs on the thread that
// waits for it.
#pragma once
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace driver {

#define RESULTS(R) \
    R(0, SUCCESS, "no error") \
    R(1, INVALID_VALUE, "invalid argument") \
    R(2, OUT_OF_MEMORY, "out of memory") \
    R(3, NOT_INITIALIZED, "initialization error") \
    R(100, NO_DEVICE, "no CUDA-capable device is detected") \
    R(101, INVALID_DEVICE, "invalid device ordinal") \
    R(200, INVALID_IMAGE, "device kernel image is invalid") \
    R(201, INVALID_CONTEXT, "invalid device context") \
    R(304, OPERATING_SYSTEM, "OS call failed or operation not supported on this OS") \
    R(400, INVALID_HANDLE, "invalid resource handle") \
    R(401, ILLEGAL_STATE, "the operation cannot be performed in the present state") \
    R(500, NOT_FOUND, "named symbol not found") \
    R(600, NOT_READY, "device not ready") \
    R(700, ILLEGAL_ADDRESS, "an illegal memory access was encountered") \
    R(712, HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped") \
    R(713, HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region") \
    R(719, LAUNCH_FAILED, "unspecified launch failure") \
    R(900, STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing") \
    R(901, STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture") \
    R(905, STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream") \
    R(907, CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream") \
    R(908, STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture from another thread") \
    R(999, UNKNOWN, "unknown error")
#define NUMBERED(code, name, text) name = code,
enum Result : int { RESULTS(NUMBERED) };

// Flags and modes of cuda.h, and the sizes of the device.
enum { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2, EVENT_FLAGS = 7, FUNCTION_DYNAMIC_SHARED = 8 };
enum { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum { SHARED_BYTES = 49152, SHARED_BYTES_ON_REQUEST = 101376 };

[[noreturn]] inline void die(const char *call, const char *what) {
    fprintf(stderr, "emulation: %s: %s\n", call, what);
    abort();
}

inline const char *text(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

/// What the environment says (see libcuda.cpp).
struct Settings {
    uint32_t seed = (uint32_t)strtoul(text("MOEWE_EMULATION_SEED", "0"), nullptr, 10);
    size_t memory = strtoull(text("MOEWE_EMULATION_MEMORY", "1073741824"), nullptr, 10);
    int version = atoi(text("MOEWE_EMULATION_DRIVER", "11080"));
    int devices = atoi(text("MOEWE_EMULATION_DEVICES", "1"));
    bool no_device = *text("MOEWE_EMULATION_NO_DEVICE", "");
    bool no_register = *text("MOEWE_EMULATION_NO_REGISTER", "");
    int major = 0, minor = 0;
    std::string failing;
    int failing_call = 0, failing_code = LAUNCH_FAILED;
    FILE *log = nullptr;

    Settings() {
        if (sscanf(text("MOEWE_EMULATION_CAPABILITY", "8.9"), "%d.%d", &major, &minor) != 2)
            die("MOEWE_EMULATION_CAPABILITY", "two numbers expected, as in 8.9");
        char name[64] = "";
        if (const char *fail = text("MOEWE_EMULATION_FAIL", nullptr))
            if (sscanf(fail, "%63[^:]:%d:%d", name, &failing_call, &failing_code) < 2)
                die("MOEWE_EMULATION_FAIL", "NAME:N or NAME:N:CODE expected");
        failing = name;
        if (const char *path = text("MOEWE_EMULATION_LOG", nullptr))
            if (!(log = fopen(path, "a"))) die("MOEWE_EMULATION_LOG", "the file cannot be written");
    }
};

typedef std::function<void()> Step;

struct Stream;
/// A point in a stream that others wait for.
struct Moment {
    const Stream *stream;
    bool has_come = false;
    std::chrono::steady_clock::time_point time;
};
struct Work {
    Step step;
    std::shared_ptr<Moment> awaited;
};
struct Capture {
    int mode;
    std::thread::id thread;
    bool is_valid = true;
    std::vector<Step> nodes;
};
struct Stream {
    int number = 0;
    bool is_destroyed = false;
    std::deque<Work> work;
    std::shared_ptr<Capture> capture;
};
struct Event {
    bool has_time;
    std::shared_ptr<Moment> last;     // of the latest record outside of captures
    std::shared_ptr<Capture> capture; // that the latest record was a part of
};
struct Graph {
    std::vector<Step> nodes;
};
struct Executable {
    std::vector<Step> nodes;
    std::shared_ptr<Moment> last; // the end of the latest launch: an executable never runs beside itself
};
struct Kernel {
    const char *name;
    size_t arguments;
    Step (*bind)(void **values);
};
struct Function {
    const Kernel *kernel;
    int shared_limit = SHARED_BYTES;
};
struct Module {
    std::map<std::string, void *> functions;
};
enum Kind { DEVICE_MEMORY, PINNED, REGISTERED };
struct Memory {
    size_t bytes;
    Kind kind;
    int device;
};

inline uintptr_t handles_given = (uintptr_t)0x4d00 << 48;
/// Objects by handle. A handle is a number that never comes again and that no memory is at: what was destroyed,
/// or is of another kind, is not found.
template <class T> struct Handles {
    std::map<void *, std::shared_ptr<T>> known;

    void *add(T object) {
        void *handle = (void *)++handles_given;
        return known[handle] = std::make_shared<T>(std::move(object)), handle;
    }
    std::shared_ptr<T> find(void *handle) {
        auto at = known.find(handle);
        return at == known.end() ? nullptr : at->second;
    }
};

struct State {
    std::mutex mutex;
    Settings settings;
    std::mt19937 order{settings.seed};
    bool is_initialized = false;
    Result stuck = SUCCESS;
    int failing_calls = 0, streams_made = 0;
    std::vector<int> retained = std::vector<int>((size_t)settings.devices);
    std::shared_ptr<Stream> null_stream = std::make_shared<Stream>();
    std::vector<std::shared_ptr<Stream>> queues{null_stream}; // those too that were destroyed with work left
    Handles<Stream> streams;
    Handles<Event> events;
    Handles<Graph> graphs;
    Handles<Executable> executables;
    Handles<Module> modules;
    Handles<Function> functions;
    std::map<uintptr_t, Memory> memory;
};
/// Never taken down: threads may still call while the process ends.
inline State &state = *new State;
inline const Settings &settings = state.settings;
inline thread_local int current_device = -1;

/// A line for the log, if there is one.
__attribute__((format(printf, 1, 2))) inline void note(const char *format, ...) {
    if (!settings.log) return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(settings.log, format, arguments);
    va_end(arguments);
    fputc('\n', settings.log), fflush(settings.log);
}

enum Needs { NOTHING, INIT, CONTEXT, NO_CAPTURE };
/// What every call begins with: the lock, the failure that a test asked for, whether it may be made at all.
struct Entry {
    std::lock_guard<std::mutex> lock{state.mutex};
    Result refusal = SUCCESS;

    Entry(const char *name, Needs needs) {
        if (settings.failing == name && ++state.failing_calls == settings.failing_call) {
            int code = settings.failing_code;
            refusal = (Result)code;
            if (code == 700 || code == 702 || (code >= 714 && code <= 719)) state.stuck = refusal;
        } else if (needs >= INIT && !state.is_initialized) {
            refusal = NOT_INITIALIZED;
        } else if (needs >= CONTEXT && (current_device < 0 || !state.retained[(size_t)current_device])) {
            refusal = INVALID_CONTEXT;
        } else if (needs >= CONTEXT && state.stuck) {
            refusal = state.stuck;
        } else if (needs == NO_CAPTURE) {
            refuse_captures();
        }
    }
    /// Calls that may wait for the device break a capture of their thread, a global one of any thread.
    void refuse_captures() {
        for (auto &[handle, stream] : state.streams.known) {
            Capture *capture = stream->capture.get();
            if (!capture || capture->mode == CAPTURE_RELAXED) continue;
            bool is_ours = capture->thread == std::this_thread::get_id();
            if (capture->mode == CAPTURE_THREAD_LOCAL && !is_ours) continue;
            capture->is_valid = false, refusal = STREAM_CAPTURE_UNSUPPORTED;
        }
    }
};

// --- Streams at work.

/// Lets one piece of work happen: of the first stream that can go on, or of any.
inline void advance(bool first) {
    std::vector<Stream *> ready;
    for (auto &stream : state.queues)
        if (!stream->work.empty() && (!stream->work[0].awaited || stream->work[0].awaited->has_come))
            ready.push_back(stream.get());
    if (ready.empty()) die("a wait", "nothing that is queued can ever happen");
    Stream *stream = ready[first ? 0 : state.order() % ready.size()];
    Work work = std::move(stream->work.front());
    stream->work.pop_front();
    work.step();
}

/// Lets work happen until a condition of a stream holds. Forgotten waits are noticed where streams are as far
/// apart as may be: mostly all others are behind this one or all are ahead of it, else every step is drawn.
template <class F> void run_until(const Stream *awaited, F is_done) {
    auto &queues = state.queues;
    auto is_over = [](auto &stream) { return stream->is_destroyed && stream->work.empty(); };
    queues.erase(std::remove_if(queues.begin(), queues.end(), is_over), queues.end());
    std::shuffle(queues.begin(), queues.end(), state.order);
    unsigned manner = state.order() % 8;
    bool is_first = manner < 3, in_turn = manner < 6;
    auto goes_first = [=](auto &stream) { return (stream.get() == awaited) == is_first; };
    std::stable_partition(queues.begin(), queues.end(), goes_first);
    while (!is_done()) advance(in_turn);
}
inline void run_all() {
    auto is_idle = [](auto &stream) { return stream->work.empty(); };
    run_until(nullptr, [&] { return std::all_of(state.queues.begin(), state.queues.end(), is_idle); });
}

inline Result invalidate(Stream &stream, Result why) { return stream.capture->is_valid = false, why; }

/// Queues work, or makes it a node of the graph that the stream captures.
inline Result put(Stream &stream, const std::string &line, Step step) {
    Capture *capture = stream.capture.get();
    if (capture && !capture->is_valid) return STREAM_CAPTURE_INVALIDATED;
    note("%s%s %d", capture ? "captured " : "", line.c_str(), stream.number);
    if (capture)
        capture->nodes.push_back(std::move(step));
    else
        stream.work.push_back({std::move(step), nullptr});
    return SUCCESS;
}
inline std::shared_ptr<Moment> record(Stream &stream) {
    auto moment = std::make_shared<Moment>(Moment{&stream, false, {}});
    Step step = [moment] { moment->has_come = true, moment->time = std::chrono::steady_clock::now(); };
    return stream.work.push_back({std::move(step), nullptr}), moment;
}
inline void wait_for(Stream &stream, std::shared_ptr<Moment> moment) {
    if (moment) stream.work.push_back({[] {}, std::move(moment)});
}

// --- Memory.

/// The last allocation that shares bytes with a range.
inline std::map<uintptr_t, Memory>::iterator overlapping(uintptr_t start, size_t bytes) {
    auto at = state.memory.lower_bound(start + bytes);
    if (at == state.memory.begin()) return state.memory.end();
    return --at, at->first + at->second.bytes > start ? at : state.memory.end();
}
/// Whether a range is of memory that the device may read and write by itself. One that is wrong ends the
/// program with the name of the call.
inline bool check_range(const char *call, const void *address, size_t bytes, bool is_device) {
    uintptr_t start = (uintptr_t)address;
    auto at = overlapping(start, bytes);
    if (at == state.memory.end()) {
        if (is_device) die(call, "a device address that is of no allocation");
        return false;
    }
    if (!is_device && at->second.kind == DEVICE_MEMORY) die(call, "a device address for one of the host");
    if (start < at->first || start + bytes > at->first + at->second.bytes)
        die(call, "a range that goes beyond its allocation");
    return true;
}
/// Exactly so many bytes: an address sanitizer sees the first one beyond.
inline void *allocate(size_t bytes, size_t alignment, Kind kind) {
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes)) return nullptr;
    state.memory[(uintptr_t)memory] = {bytes, kind, current_device};
    return memset(memory, 0xff, bytes);
}
/// As a driver does, waits for everything first.
inline Result release(uintptr_t address, Kind kind, Result otherwise) {
    auto at = state.memory.find(address);
    if (at == state.memory.end() || at->second.kind != kind) return otherwise;
    run_all();
    note(kind == DEVICE_MEMORY ? "free" : "unpin");
    if (kind != REGISTERED) memset((void *)address, 0xff, at->second.bytes), free((void *)address);
    return state.memory.erase(at), SUCCESS;
}
inline size_t memory_left() {
    size_t used = 0;
    for (auto &[address, memory] : state.memory)
        if (memory.kind == DEVICE_MEMORY && memory.device == current_device) used += memory.bytes;
    return settings.memory > used ? settings.memory - used : 0;
}

} // namespace driver
