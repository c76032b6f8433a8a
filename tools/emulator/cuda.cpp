// libcuda.so.1 on the CPU: memory is malloc's, a stream does its work when somebody waits for it, kernels run in
// emulator_run.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
    NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
};

struct Function {
    void (*run)(void (*)(void**), void**, const unsigned*, const unsigned*);
    void (*call)(void**);
    const unsigned* sizes;  // of the parameters, then 0
    std::string name;
};

// Recorded work: what was submitted, to be done in order.
using Graph = std::vector<std::function<int()>>;

struct Module {
    void* library;
    std::map<std::string, Function> functions;
};

constexpr size_t GUARD = 256;  // bytes before and after each allocation

// An allocation. Its guards and its first contents are a NaN of its own, so that one array's is not taken for
// another's.
struct Block {
    size_t bytes;
    uint32_t nan;
};

static std::mutex lock;
static std::map<uint64_t, Block> live;
static size_t used;
static thread_local void* context;
static char device;  // its address is the one context
static thread_local Graph* capture;  // while work is recorded
static thread_local bool invalid;    // whether something was done that cannot be

// Work that was submitted and not yet done. What it reads on the host by then must be what it was.
static thread_local std::deque<std::function<int()>> pending;
static thread_local int failure;  // of work, told to whoever waits next and from then on
static std::map<uint64_t, size_t> page_locked;

// Takes note of `work`, or records it.
static int submit(std::function<int()> work) {
    if (capture) capture->push_back(std::move(work));
    else pending.push_back(std::move(work));
    return SUCCESS;
}

// Does everything that was submitted.
static int wait() {
    while (!pending.empty() && !failure) {
        auto work = std::move(pending.front());
        pending.pop_front();
        failure = work();
    }
    pending.clear();
    return failure;
}

// Refuses what a recording cannot hold: real drivers record some of it, and then repeat it with whatever lies at the
// host's address by then.
static bool refused() {
    invalid |= capture != nullptr;
    return capture != nullptr;
}

static size_t capacity() {
    const char* bytes = getenv("RISSOLE_EMULATOR_MEMORY");
    return bytes ? strtoull(bytes, nullptr, 10) : size_t(4) << 30;
}

// Whether [address, address + bytes) lies in one allocation.
static bool inside(uint64_t address, size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    auto after = live.upper_bound(address);
    if (after == live.begin()) return bytes == 0;
    auto block = std::prev(after);
    return address + bytes <= block->first + block->second.bytes;
}

// Writes or compares the guards of an allocation; the last few bytes of an odd length stay out.
static bool guards(uint64_t address, const Block& block, bool write) {
    uint32_t words[GUARD / 4];
    for (auto& word : words) word = block.nan;
    for (auto* at : {(char*)address - GUARD, (char*)address + block.bytes}) {
        if (write) memcpy(at, words, GUARD);
        else if (memcmp(at, words, GUARD)) return false;
    }
    return true;
}

static bool guards_are_whole() {
    std::lock_guard<std::mutex> hold(lock);
    for (auto& [address, block] : live) {
        if (!guards(address, block, false)) return false;
    }
    return true;
}

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int* count) {
    const char* devices = getenv("RISSOLE_EMULATOR_DEVICES");
    return *count = devices ? atoi(devices) : 1, SUCCESS;
}
int cuDeviceGet(int* handle, int ordinal) {
    int count;
    cuDeviceGetCount(&count);
    return *handle = ordinal, ordinal >= 0 && ordinal < count ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, length, "CPU emulation");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 9.0, 16 multiprocessors; nothing else.
    *value = attribute == 75 ? 9 : attribute == 16 ? 16 : 0;
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = capacity(), SUCCESS; }
int cuDevicePrimaryCtxRetain(void** to, int) { return *to = &device, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** to) { return *to = context, SUCCESS; }
int cuCtxSetCurrent(void* to) { return context = to, SUCCESS; }
int cuCtxSynchronize() { return refused() ? CAPTURE_UNSUPPORTED : wait(); }
int cuStreamCreate(void** stream, unsigned) { return *stream = malloc(1), SUCCESS; }
int cuStreamDestroy_v2(void* stream) { return wait(), free(stream), SUCCESS; }
int cuStreamSynchronize(void*) { return refused() ? CAPTURE_UNSUPPORTED : wait(); }

int cuStreamBeginCapture_v2(void*, int) {
    if (refused() || getenv("RISSOLE_EMULATOR_NO_CAPTURE")) return CAPTURE_UNSUPPORTED;
    capture = new Graph;
    invalid = false;
    return SUCCESS;
}
int cuStreamEndCapture(void*, Graph** graph) {
    *graph = nullptr;
    if (!capture) return INVALID_VALUE;
    if (invalid) delete capture;
    else *graph = capture;
    capture = nullptr;
    return invalid ? CAPTURE_INVALIDATED : SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph** work, Graph* graph, unsigned long long) { return *work = new Graph(*graph), SUCCESS; }
int cuGraphDestroy(Graph* graph) { return delete graph, SUCCESS; }
int cuGraphExecDestroy(Graph* work) { return delete work, SUCCESS; }
int cuGraphLaunch(Graph* work, void*) {
    for (auto& step : *work) {
        submit(step);
    }
    return SUCCESS;
}

// Events are the time at which they are reached.
int cuEventCreate(double** event, unsigned) { return *event = new double(0), SUCCESS; }
int cuEventDestroy_v2(double* event) { return wait(), delete event, SUCCESS; }
int cuEventSynchronize(double*) { return refused() ? CAPTURE_UNSUPPORTED : wait(); }
int cuEventRecord(double* event, void*) {
    return submit([=] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        *event = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
        return SUCCESS;
    });
}
int cuEventElapsedTime_v2(float* milliseconds, double* start, double* end) {
    return *milliseconds = (float)(*end - *start), SUCCESS;
}
int cuEventElapsedTime(float* milliseconds, double* start, double* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

// For the other libraries.
void emulator_submit(std::function<int()>* work) { submit(std::move(*work)); }

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    *total = capacity();
    *free = *total - used;
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    if (!context) return INVALID_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (refused()) return CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> hold(lock);
    if (used + bytes > capacity()) return OUT_OF_MEMORY;
    auto* start = (unsigned char*)aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256);
    if (!start) return OUT_OF_MEMORY;
    *address = (uint64_t)(start + GUARD);
    static uint32_t count;
    Block block{bytes, 0xffc00000u | (++count & 0x3fffffu)};
    for (size_t i = 0; i < bytes / 4; i++) memcpy(start + GUARD + 4 * i, &block.nan, 4);
    guards(*address, block, true);
    live[*address] = block;
    used += bytes;
    return SUCCESS;
}

int cuMemFree_v2(uint64_t address) {
    if (refused()) return CAPTURE_UNSUPPORTED;
    wait();
    std::lock_guard<std::mutex> hold(lock);
    auto block = live.find(address);
    if (block == live.end()) return INVALID_VALUE;
    used -= block->second.bytes;
    live.erase(block);
    free((unsigned char*)address - GUARD);
    return SUCCESS;
}

int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    if (refused()) return CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> hold(lock);
    *memory = malloc(bytes);
    page_locked[(uint64_t)*memory] = bytes;
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFreeHost(void* memory) {
    if (refused()) return CAPTURE_UNSUPPORTED;
    wait();
    std::lock_guard<std::mutex> hold(lock);
    if (!page_locked.erase((uint64_t)memory)) return INVALID_VALUE;
    free(memory);
    return SUCCESS;
}

// Page-locked memory is read when the copy's turn comes, any other now.
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    if (refused()) return CAPTURE_UNSUPPORTED;
    std::unique_lock<std::mutex> hold(lock);
    auto after = page_locked.upper_bound((uint64_t)from);
    bool later = after != page_locked.begin();
    if (later) {
        auto [start, length] = *std::prev(after);
        later = (uint64_t)from + bytes <= start + length;
    }
    hold.unlock();
    std::shared_ptr<std::vector<char>> staged;
    if (!later) staged = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + bytes);
    return submit([=] {
        if (!inside(to, bytes)) return ILLEGAL_ADDRESS;
        memcpy((void*)to, staged ? staged->data() : from, bytes);
        return SUCCESS;
    });
}

int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    if (refused()) return CAPTURE_UNSUPPORTED;
    if (int fault = wait()) return fault;
    if (!inside(from, bytes)) return ILLEGAL_ADDRESS;
    memcpy(to, (void*)from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    return submit([=] {
        if (!inside(from, bytes) || !inside(to, bytes)) return ILLEGAL_ADDRESS;
        memmove((void*)to, (void*)from, bytes);
        return SUCCESS;
    });
}

int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void*) {
    return submit([=] {
        if (!inside(to, bytes)) return ILLEGAL_ADDRESS;
        memset((void*)to, value, bytes);
        return SUCCESS;
    });
}

int cuModuleLoadData(Module** module, const void* image) {
    if (memcmp(image, "RSLEMU01", 8)) return INVALID_IMAGE;
    uint64_t length;
    memcpy(&length, (const char*)image + 8, 8);
    int file = memfd_create("kernels", 0);
    if (file < 0 || write(file, (const char*)image + 16, length) != (ssize_t)length) return INVALID_IMAGE;
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "CUDA emulator: %s\n", dlerror());
    // The file stays open: the loader would take a later one of the same number for this library.
    *module = new Module{library, {}};
    return library ? SUCCESS : INVALID_IMAGE;
}

// The library stays loaded: functions of it may still be named.
int cuModuleUnload(Module*) { return SUCCESS; }

int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    auto* call = (void (*)(void**))dlsym(module->library, (std::string("emulator_call_") + name).c_str());
    if (!call) return NOT_FOUND;
    Function& found = module->functions[name];
    found.run = (decltype(found.run))dlsym(module->library, "emulator_run");
    found.call = call;
    found.sizes = ((const unsigned* (*)())dlsym(module->library, (std::string("emulator_sizes_") + name).c_str()))();
    found.name = name;
    *function = &found;
    return SUCCESS;
}

// Runs a kernel with its arguments, one after the other in `packed`.
static int run(Function* f, std::vector<char>& packed, const unsigned* grid, const unsigned* block) {
    static std::mutex one;  // a library's threads are static
    std::lock_guard<std::mutex> hold(one);
    std::vector<void*> arguments;
    size_t at = 0;
    for (const unsigned* size = f->sizes; *size; size++, at += 8) arguments.push_back(&packed[at]);
    f->run(f->call, arguments.data(), grid, block);
    if (!guards_are_whole()) {
        fprintf(stderr, "CUDA emulator: %s wrote outside its arrays\n", f->name.c_str());
        return ILLEGAL_ADDRESS;
    }
    return SUCCESS;
}

int cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void*, void** arguments, void**) {
    if (!context) return INVALID_CONTEXT;
    if (!gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 || gz > 65535 || shared) return INVALID_VALUE;
    std::vector<char> packed;
    for (const unsigned* size = f->sizes; *size; size++) {
        if (*size > 8) return INVALID_VALUE;
        packed.resize(packed.size() + 8);
        memcpy(&packed[packed.size() - 8], arguments[size - f->sizes], *size);
    }
    return submit([=]() mutable {
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        return run(f, packed, grid, block);
    });
}

int cuGetErrorName(int code, const char** text) {
    switch (code) {
        case SUCCESS: *text = "CUDA_SUCCESS"; break;
        case INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; break;
        case OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case INVALID_DEVICE: *text = "CUDA_ERROR_INVALID_DEVICE"; break;
        case INVALID_IMAGE: *text = "CUDA_ERROR_INVALID_IMAGE"; break;
        case CAPTURE_UNSUPPORTED: *text = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
        case CAPTURE_INVALIDATED: *text = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
        case ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        default: *text = "CUDA_ERROR"; break;
    }
    return SUCCESS;
}
int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

}  // extern "C"
