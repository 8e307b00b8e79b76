// A driver for programs under test: the functions of libcuda.so.1 that Möwe calls, over the emulated GPU.
//
// A stream is a queue. Nothing in it happens before somebody waits, and then in an order drawn from a seed that
// only streams and events restrict: work that forgets to wait for an event finds memory as it was before, and a
// host that reuses memory too early is found out, for copies read and write it when they run. Device memory is
// memory of the host, every allocation by itself, filled with bytes that make no number. Where a driver would
// let a mistake pass, this one refuses or aborts. The null stream is like the others: it orders none of them.
//
// Set by the environment when the library is loaded, all of it optional:
//   MOEWE_EMULATION_SEED         draws the order of streams and of the threads of kernels [0]
//   MOEWE_EMULATION_DRIVER       version, as of cuDriverGetVersion [11080]
//   MOEWE_EMULATION_CAPABILITY   compute capability [8.9]
//   MOEWE_EMULATION_MEMORY       bytes of each device [1073741824]
//   MOEWE_EMULATION_DEVICES      how many there are [1]; they differ by the memory that is left
//   MOEWE_EMULATION_NO_DEVICE    set: cuInit finds none
//   MOEWE_EMULATION_NO_REGISTER  set: the system refuses to pin memory that is there
//   MOEWE_EMULATION_FAIL         NAME:N[:CODE], the Nth call of NAME fails with CODE [719]; as on a device,
//                                codes that say a kernel went wrong stay for good
//   MOEWE_EMULATION_LOG          a file that gets a line per call that matters
#include "device.h"
#include "driver.h"
#ifndef MOEWE_KERNELS
#define MOEWE_KERNELS "kernels.h"
#endif
#include MOEWE_KERNELS
#include <tuple>
#include <utility>

#define API extern "C" __attribute__((visibility("default"))) Result

namespace driver {

#define ENTER(needs) \
    Entry entry(__func__, needs); \
    if (entry.refusal) return entry.refusal
#define ENTER_DEVICE(device) \
    ENTER(INIT); \
    if (device < 0 || device >= settings.devices) return INVALID_DEVICE
/// Finds an object, or returns from the call.
#define FIND(name, handles, handle) \
    auto name = state.handles.find(handle); \
    if (!name) return INVALID_HANDLE
#define FIND_STREAM(name, handle) \
    auto name = (handle) ? state.streams.find(handle) : state.null_stream; \
    if (!name) return INVALID_HANDLE
#define DESTROY(handles, handle) return state.handles.known.erase(handle) ? SUCCESS : INVALID_HANDLE

// --- Kernels.

template <auto kernel> struct Call;
template <class... A, void (*kernel)(A...)> struct Call<kernel> {
    static constexpr size_t arguments = sizeof...(A);

    /// The arguments are copied when a kernel is launched, as the driver does.
    static Step bind(void **values) {
        std::tuple<A...> copies = take(values, std::index_sequence_for<A...>());
        return [copies] { std::apply(kernel, copies); };
    }
    template <size_t... I>
    static std::tuple<A...> take([[maybe_unused]] void **values, std::index_sequence<I...>) {
        return {value<A>(values[I])...};
    }
    template <class T> static T value(const void *at) {
        T value;
        return memcpy(&value, at, sizeof value), value;
    }
};
#define ENTRY(name) {#name, Call<::name>::arguments, Call<::name>::bind},
static const Kernel kernels[] = {KERNELS(ENTRY)};

static Result copy(const char *call, const char *way, void *to, bool to_device, const void *from,
                   bool from_device, size_t bytes, void *handle) {
    FIND_STREAM(stream, handle);
    if (!bytes) return SUCCESS;
    auto check = [=] {
        bool to_is_pinned = check_range(call, to, bytes, to_device);
        return check_range(call, from, bytes, from_device) && to_is_pinned;
    };
    // A driver copies pageable memory by way of its own, which no graph can hold.
    if (!check() && stream->capture) return invalidate(*stream, STREAM_CAPTURE_UNSUPPORTED);
    return put(*stream, std::string("copy ") + way + " " + std::to_string(bytes), [=] {
        check(); // a graph may be older than the memory it copies
        memcpy(to, from, bytes);
    });
}

// --- The interface, in the order of cuda.h. `Entry` names what a call needs.

API cuGetErrorString(Result code, const char **string) {
#define TEXT(code, name, text) case name: return *string = text, SUCCESS;
    switch (code) { RESULTS(TEXT) }
    return *string = nullptr, INVALID_VALUE;
}
API cuGetErrorName(Result code, const char **string) {
#define NAME(code, name, text) case name: return *string = code ? "CUDA_ERROR_" #name : "CUDA_" #name, SUCCESS;
    switch (code) { RESULTS(NAME) }
    return *string = nullptr, INVALID_VALUE;
}
API cuInit(unsigned flags) {
    ENTER(NOTHING);
    if (settings.no_device || settings.devices < 1) return NO_DEVICE;
    return state.is_initialized |= !flags, flags ? INVALID_VALUE : SUCCESS;
}
API cuDriverGetVersion(int *version) {
    ENTER(NOTHING);
    return *version = settings.version, SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
    ENTER(INIT);
    if (ordinal < 0 || ordinal >= settings.devices) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}
API cuDeviceGetCount(int *count) {
    ENTER(INIT);
    return *count = settings.devices, SUCCESS;
}
API cuDeviceGetName(char *name, int length, int device) {
    ENTER_DEVICE(device);
    return snprintf(name, (size_t)length, "emulated GPU"), SUCCESS;
}
API cuDeviceGetUuid(char *uuid, int device) {
    ENTER_DEVICE(device);
    return memcpy(uuid, "emulated GPU   ", 15), uuid[15] = (char)device, SUCCESS;
}
API cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER_DEVICE(device);
    return *bytes = settings.memory, SUCCESS;
}
API cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER_DEVICE(device);
    const std::map<int, int> attributes{
        {1, 1024},              // threads of a block
        {2, 1024}, {5, 1 << 30}, {6, 65535}, // block and grid
        {8, SHARED_BYTES},      // shared memory of a block
        {10, 32},               // threads of a warp
        {12, 65536},            // registers of a block
        {16, 4},                // multiprocessors
        {19, 1}, {41, 1}, {91, 1}, // host memory by its own address
        {38, 4 << 20},          // second-level cache
        {39, 1536},             // threads of a multiprocessor
        {40, 2},                // copy engines
        {75, settings.major}, {76, settings.minor},
        {81, 102400}, {82, 65536}, // shared memory and registers of a multiprocessor
        {97, SHARED_BYTES_ON_REQUEST},
    };
    auto at = attributes.find(attribute);
    if (at == attributes.end()) return INVALID_VALUE;
    return *value = at->second, SUCCESS;
}
static void *const contexts = (void *)((uintptr_t)0x4d01 << 48); // of device 0; others follow
API cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER_DEVICE(device);
    state.retained[(size_t)device]++;
    return *context = (void *)((uintptr_t)contexts + (uintptr_t)device), SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_DEVICE(device);
    int &retained = state.retained[(size_t)device];
    if (!retained) return INVALID_CONTEXT;
    if (retained == 1 && !state.stuck) run_all();
    return retained--, SUCCESS;
}
API cuCtxSetCurrent(void *context) {
    ENTER(INIT);
    uintptr_t device = (uintptr_t)context - (uintptr_t)contexts;
    if (context && (device >= state.retained.size() || !state.retained[device])) return INVALID_CONTEXT;
    return current_device = context ? (int)device : -1, SUCCESS;
}
API cuModuleLoadDataEx(void **module, const void *image, unsigned options, void *, void **) {
    ENTER(NO_CAPTURE);
    if (!image || options > 64) return INVALID_VALUE;
    for (const char *start : {"// moewe kernels", ".version"})
        if (!strncmp((const char *)image, start, strlen(start)))
            return *module = state.modules.add({}), SUCCESS;
    return INVALID_IMAGE;
}
API cuModuleUnload(void *handle) {
    ENTER(NO_CAPTURE);
    FIND(module, modules, handle);
    run_all();
    for (auto &[name, function] : module->functions) state.functions.known.erase(function);
    DESTROY(modules, handle);
}
API cuModuleGetFunction(void **function, void *handle, const char *name) {
    ENTER(CONTEXT);
    FIND(module, modules, handle);
    auto is_named = [=](const Kernel &kernel) { return !strcmp(kernel.name, name); };
    auto kernel = std::find_if(std::begin(kernels), std::end(kernels), is_named);
    if (kernel == std::end(kernels)) return NOT_FOUND;
    void *&known = module->functions[name];
    if (!known) known = state.functions.add({kernel});
    return *function = known, SUCCESS;
}
API cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER(CONTEXT);
    return *free = memory_left(), *total = settings.memory, SUCCESS;
}
API cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    ENTER(NO_CAPTURE);
    if (!bytes) return INVALID_VALUE;
    *address = bytes > memory_left() ? 0 : (uint64_t)allocate(bytes, 256, DEVICE_MEMORY);
    if (!*address) return OUT_OF_MEMORY;
    return note("alloc %zu", bytes), SUCCESS;
}
API cuMemFree_v2(uint64_t address) {
    ENTER(NO_CAPTURE);
    return release(address, DEVICE_MEMORY, INVALID_VALUE);
}
API cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER(NO_CAPTURE);
    if (!bytes || flags > 7) return INVALID_VALUE;
    if (!(*address = allocate(bytes, 4096, PINNED))) return OUT_OF_MEMORY;
    return note("pin %zu", bytes), SUCCESS;
}
API cuMemFreeHost(void *address) {
    ENTER(NO_CAPTURE);
    return release((uintptr_t)address, PINNED, INVALID_VALUE);
}
API cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) {
    ENTER(NO_CAPTURE);
    if (!address || !bytes || flags > 15) return INVALID_VALUE;
    if (settings.no_register) return OPERATING_SYSTEM;
    if (overlapping((uintptr_t)address, bytes) != state.memory.end()) return HOST_MEMORY_ALREADY_REGISTERED;
    state.memory[(uintptr_t)address] = {bytes, REGISTERED, current_device};
    return note("pin %zu", bytes), SUCCESS;
}
API cuMemHostUnregister(void *address) {
    ENTER(NO_CAPTURE);
    return release((uintptr_t)address, REGISTERED, HOST_MEMORY_NOT_REGISTERED);
}
API cuMemHostGetDevicePointer_v2(uint64_t *device, void *address, unsigned flags) {
    ENTER(CONTEXT);
    auto at = overlapping((uintptr_t)address, 1);
    if (flags || at == state.memory.end() || at->second.kind == DEVICE_MEMORY) return INVALID_VALUE;
    return *device = (uint64_t)address, SUCCESS;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    ENTER(CONTEXT);
    return copy(__func__, "h2d", (void *)to, true, from, false, bytes, stream);
}
API cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    ENTER(CONTEXT);
    return copy(__func__, "d2h", to, false, (const void *)from, true, bytes, stream);
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    ENTER(CONTEXT);
    return copy(__func__, "d2d", (void *)to, true, (const void *)from, true, bytes, stream);
}
API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *handle) {
    ENTER(CONTEXT);
    FIND_STREAM(stream, handle);
    if (!bytes) return SUCCESS;
    const char *call = __func__;
    check_range(call, (void *)to, bytes, true);
    return put(*stream, "set " + std::to_string(bytes), [=] {
        check_range(call, (void *)to, bytes, true);
        memset((void *)to, value, bytes);
    });
}
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) {
    ENTER(CONTEXT);
    if (flags > STREAM_NON_BLOCKING) return INVALID_VALUE;
    *stream = state.streams.add({++state.streams_made, false, {}, nullptr});
    return state.queues.push_back(state.streams.find(*stream)), SUCCESS;
}
API cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
    ENTER(CONTEXT);
    FIND_STREAM(stream, handle);
    FIND(event, events, event_handle);
    if (flags) return INVALID_VALUE;
    if (stream->capture) {
        if (!stream->capture->is_valid) return STREAM_CAPTURE_INVALIDATED;
        return event->capture == stream->capture ? SUCCESS : invalidate(*stream, STREAM_CAPTURE_ISOLATION);
    }
    if (event->capture) return STREAM_CAPTURE_ISOLATION; // a driver would let this stream join the capture
    return wait_for(*stream, event->last), SUCCESS;
}
API cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER(CONTEXT);
    FIND_STREAM(stream, handle);
    if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) return INVALID_VALUE;
    if (stream == state.null_stream) return STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>(Capture{mode, std::this_thread::get_id(), true, {}});
    return SUCCESS;
}
API cuStreamEndCapture(void *handle, void **graph) {
    ENTER(CONTEXT);
    FIND_STREAM(stream, handle);
    std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return ILLEGAL_STATE;
    if (capture->mode != CAPTURE_RELAXED && capture->thread != std::this_thread::get_id())
        return invalidate(*stream, STREAM_CAPTURE_WRONG_THREAD);
    stream->capture = nullptr, *graph = nullptr;
    if (!capture->is_valid) return STREAM_CAPTURE_INVALIDATED;
    return *graph = state.graphs.add({std::move(capture->nodes)}), SUCCESS;
}
API cuStreamSynchronize(void *handle) {
    ENTER(NO_CAPTURE);
    FIND_STREAM(stream, handle);
    if (stream->capture) return invalidate(*stream, STREAM_CAPTURE_UNSUPPORTED);
    note("wait stream");
    return run_until(stream.get(), [&] { return stream->work.empty(); }), SUCCESS;
}
API cuStreamDestroy_v2(void *handle) {
    ENTER(CONTEXT);
    FIND(stream, streams, handle);
    stream->is_destroyed = true, stream->capture = nullptr; // its work still happens
    DESTROY(streams, handle);
}
API cuEventCreate(void **event, unsigned flags) {
    ENTER(CONTEXT);
    if (flags > EVENT_FLAGS) return INVALID_VALUE;
    bool has_time = !(flags & EVENT_DISABLE_TIMING);
    return *event = state.events.add({has_time, nullptr, nullptr}), SUCCESS;
}
API cuEventRecord(void *event_handle, void *handle) {
    ENTER(CONTEXT);
    FIND(event, events, event_handle);
    FIND_STREAM(stream, handle);
    if (stream->capture && !stream->capture->is_valid) return STREAM_CAPTURE_INVALIDATED;
    event->capture = stream->capture;
    if (!stream->capture) event->last = record(*stream);
    return SUCCESS;
}
API cuEventQuery(void *handle) {
    ENTER(NO_CAPTURE);
    FIND(event, events, handle);
    if (event->capture) return CAPTURED_EVENT;
    if (!event->last || event->last->has_come) return SUCCESS;
    advance(false); // the next question may have another answer
    return NOT_READY;
}
API cuEventSynchronize(void *handle) {
    ENTER(NO_CAPTURE);
    FIND(event, events, handle);
    if (event->capture) return CAPTURED_EVENT;
    note("wait event");
    if (const Moment *last = event->last.get()) run_until(last->stream, [=] { return last->has_come; });
    return SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, void *start_handle, void *end_handle) {
    ENTER(CONTEXT);
    FIND(start, events, start_handle);
    FIND(end, events, end_handle);
    if (!start->has_time || !end->has_time || !start->last || !end->last) return INVALID_HANDLE;
    if (start->capture || end->capture) return CAPTURED_EVENT;
    if (!start->last->has_come || !end->last->has_come) return NOT_READY;
    std::chrono::duration<float, std::milli> time = end->last->time - start->last->time;
    return *milliseconds = time.count(), SUCCESS;
}
API cuEventDestroy_v2(void *handle) {
    ENTER(CONTEXT);
    DESTROY(events, handle);
}
API cuFuncGetAttribute(int *value, int attribute, void *handle) {
    ENTER(CONTEXT);
    FIND(function, functions, handle);
    // Threads of a block; shared, constant and local memory; registers; versions of PTX and binary; one more.
    const int version = settings.major * 10 + settings.minor;
    const int values[] = {1024, 0, 0, 0, 64, 78, version, 0, function->shared_limit};
    if (attribute < 0 || attribute > FUNCTION_DYNAMIC_SHARED) return INVALID_VALUE;
    return *value = values[attribute], SUCCESS;
}
API cuFuncSetAttribute(void *handle, int attribute, int value) {
    ENTER(CONTEXT);
    FIND(function, functions, handle);
    if (attribute != FUNCTION_DYNAMIC_SHARED) return INVALID_VALUE;
    if (value < 0 || value > SHARED_BYTES_ON_REQUEST) return INVALID_VALUE;
    return function->shared_limit = value, SUCCESS;
}
API cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void *stream_handle,
                   void **arguments, void **extra) {
    ENTER(CONTEXT);
    FIND(function, functions, handle);
    FIND_STREAM(stream, stream_handle);
    const Kernel &kernel = *function->kernel;
    bool is_grid = grid_x >= 1 && grid_x <= INT32_MAX && grid_y >= 1 && grid_y <= 65535 && grid_z == 1;
    bool is_block = threads >= 1 && threads <= 1024 && threads_y == 1 && threads_z == 1;
    bool has_arguments = (arguments || !kernel.arguments) && !extra;
    if (!is_grid || !is_block || !has_arguments) return INVALID_VALUE;
    if ((int64_t)shared > function->shared_limit) return INVALID_VALUE;
    char line[160];
    snprintf(line, sizeof line, "launch %s %u %u %u %u", kernel.name, grid_x, grid_y, threads, shared);
    return put(*stream, line, [=, name = kernel.name, body = kernel.bind(arguments)] {
        emulation::kernel_name = name;
        emulation::Schedule schedule{(uint32_t)state.order(), state.order() % 2 == 0};
        emulation::launch((int)grid_x, (int)grid_y, (int)threads, shared, schedule, body);
    });
}
API cuGraphInstantiateWithFlags(void **executable, void *handle, unsigned long long) {
    ENTER(CONTEXT);
    FIND(graph, graphs, handle);
    return *executable = state.executables.add({graph->nodes, nullptr}), SUCCESS;
}
API cuGraphLaunch(void *handle, void *stream_handle) {
    ENTER(CONTEXT);
    FIND(executable, executables, handle);
    FIND_STREAM(stream, stream_handle);
    // A driver would nest the graphs.
    if (stream->capture) return invalidate(*stream, STREAM_CAPTURE_UNSUPPORTED);
    note("graph launch %zu", executable->nodes.size());
    wait_for(*stream, executable->last);
    // One by one: work of other streams may come between them.
    for (const Step &node : executable->nodes) stream->work.push_back({node, nullptr});
    return executable->last = record(*stream), SUCCESS;
}
API cuGraphExecDestroy(void *handle) {
    ENTER(CONTEXT);
    DESTROY(executables, handle);
}
API cuGraphDestroy(void *handle) {
    ENTER(CONTEXT);
    DESTROY(graphs, handle);
}

} // namespace driver
