// CUDA C for g++: put in front of the kernels by the emulated NVRTC. A block's threads are coroutines of one CPU
// thread, switched at barriers and shuffles; blocks run one after another.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

struct dim3 {
    unsigned x, y, z;
};

// Shared memory is a section of its own, so that it can be filled with NaN before each block.
#define EMULATOR_HIDDEN __attribute__((weak, visibility("hidden")))
extern char __start_emulated_shared[] EMULATOR_HIDDEN;
extern char __stop_emulated_shared[] EMULATOR_HIDDEN;

namespace emulator {

[[noreturn]] static void fail(const char* what) {
    fprintf(stderr, "CUDA emulator: %s\n", what);
    abort();
}

constexpr unsigned MOST = 1024, WARP = 32;
constexpr size_t STACK = 64 << 10;

struct Thread {
    dim3 index;
    bool done;
    jmp_buf state;
    char* stack;
};

struct Barrier {
    unsigned waiting, opened;
};

static Thread threads[MOST];
static unsigned order[MOST], count;
static Barrier block_wide, warp_wide[MOST / WARP];
static unsigned exchange[MOST];
static Thread* current;
static unsigned progress;  // counts arrivals and exits; a round without any is a deadlock
static jmp_buf scheduler;
static dim3 block_index, block_size, grid_size;
static void (*kernel)(void**);
static void** arguments;

static void yield() {
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

static void wait(Barrier& barrier, unsigned parties) {
    unsigned mine = barrier.opened;
    progress++;
    if (++barrier.waiting == parties) {
        barrier.waiting = 0;
        barrier.opened++;
    }
    while (barrier.opened == mine) yield();
}

static unsigned shuffle(unsigned value, unsigned from) {
    unsigned lane = current->index.x, warp = lane / WARP;
    exchange[lane] = value;
    wait(warp_wide[warp], WARP);
    unsigned got = exchange[warp * WARP + from];
    wait(warp_wide[warp], WARP);
    return got;
}

// A coroutine runs the kernel once a block, for ever.
static ucontext_t home, entry;
static void body() {
    if (!_setjmp(current->state)) setcontext(&home);
    for (;;) {
        kernel(arguments);
        current->done = true;
        progress++;
        yield();
    }
}

static void start(unsigned i) {
    threads[i].index = {i, 0, 0};
    threads[i].stack = (char*)malloc(STACK);
    getcontext(&entry);
    entry.uc_stack.ss_sp = threads[i].stack;
    entry.uc_stack.ss_size = STACK;
    entry.uc_link = nullptr;
    makecontext(&entry, body, 0);
    current = &threads[i];
    swapcontext(&home, &entry);
}

static void set_order(unsigned seed) {
    const char* mode = getenv("RISSOLE_EMULATOR_ORDER");
    bool reverse = mode && !strcmp(mode, "reverse"), shuffled = mode && !strcmp(mode, "shuffled");
    for (unsigned i = 0; i < count; i++) order[i] = reverse ? count - 1 - i : i;
    auto shuffle = [&](unsigned n, unsigned size) {
        for (unsigned i = n - 1; i > 0; i--) {
            seed = seed * 1664525u + 1013904223u;
            unsigned other = (seed >> 8) % (i + 1);
            for (unsigned k = 0; k < size; k++) std::swap(order[i * size + k], order[other * size + k]);
        }
    };
    if (shuffled) shuffle(count / WARP, WARP);  // warps, each whole
}

static void run_block(unsigned seed) {
    if (__start_emulated_shared) {
        memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    }
    set_order(seed);
    for (unsigned i = 0; i < count; i++) threads[i].done = false;
    static unsigned left, before, warp, stuck, i;  // not on the stack: they live through longjmp
    for (left = count; left > 0;) {
        before = progress;
        // Each warp goes as far as it can before the next: a race that waiting in turn would hide shows.
        for (warp = 0; warp < count; warp += WARP) {
            do {
                stuck = progress;
                for (i = warp; i < warp + WARP; i++) {
                    current = &threads[order[i]];
                    if (current->done) continue;
                    if (!_setjmp(scheduler)) _longjmp(current->state, 1);
                    left -= current->done;
                }
            } while (progress != stuck);
        }
        if (progress == before) fail("some threads wait at a barrier that others of their block or warp never reach");
    }
}

// Calls a kernel with arguments unpacked by its own signature.
template <typename... A, size_t... I>
static void call(void (*f)(A...), void** packed, std::index_sequence<I...>) {
    f(*(A*)packed[I]...);
}
template <typename... A>
static void call(void (*f)(A...), void** packed) {
    call(f, packed, std::index_sequence_for<A...>());
}

// Bytes of each parameter, then 0.
template <typename... A>
static const unsigned* sizes(void (*)(A...)) {
    static const unsigned bytes[] = {sizeof(A)..., 0};
    return bytes;
}

}  // namespace emulator

// Runs a kernel's whole grid; called by the emulated driver.
extern "C" void emulator_run(void (*kernel)(void**), void** arguments, const unsigned* grid, const unsigned* block) {
    using namespace emulator;
    if (block[0] == 0 || block[0] % WARP || block[0] > MOST || block[1] != 1 || block[2] != 1) {
        fail("a block must be a multiple of 32 threads, at most 1024, in one dimension");
    }
    emulator::kernel = kernel;
    emulator::arguments = arguments;
    count = block[0];
    block_size = {block[0], 1, 1};
    grid_size = {grid[0], grid[1], grid[2]};
    for (unsigned i = 0; i < count; i++) {
        if (!threads[i].stack) start(i);
    }
    unsigned seed = 0;
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                run_block(seed++);
            }
        }
    }
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("emulated_shared")))
#define threadIdx (emulator::current->index)
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define __syncthreads() emulator::wait(emulator::block_wide, emulator::count)

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned __shfl_xor_sync(unsigned mask, unsigned value, int lanes) {
    if (mask != 0xffffffffu) emulator::fail("a shuffle must be of a whole warp");
    return emulator::shuffle(value, (threadIdx.x % emulator::WARP) ^ lanes);
}
static inline float __shfl_xor_sync(unsigned mask, float value, int lanes) {
    return __uint_as_float(__shfl_xor_sync(mask, __float_as_uint(value), lanes));
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    if (mask != 0xffffffffu) emulator::fail("a vote must be of a whole warp");
    unsigned votes = predicate ? 1u << threadIdx.x % emulator::WARP : 0;
    for (int lanes = 16; lanes > 0; lanes >>= 1) votes |= __shfl_xor_sync(mask, votes, lanes);
    return votes;
}
static inline int __ffs(int bits) { return __builtin_ffs(bits); }

// The product of a warp on tensor cores, by the fragments that PTX's documentation draws: see `tensor.cu`.
#define EMULATED_MMA
static inline void mma(float* d, const unsigned* a, const unsigned* b) {
    using namespace emulator;
    static unsigned held[MOST][6];
    auto bf16_of = [](unsigned word, unsigned half) { return __uint_as_float(half ? word & 0xffff0000u : word << 16); };
    unsigned thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    for (int i = 0; i < 4; i++) held[thread][i] = a[i];
    for (int i = 0; i < 2; i++) held[thread][4 + i] = b[i];
    wait(warp_wide[warp], WARP);
    for (unsigned v = 0; v < 4; v++) {
        unsigned row = lane / 4 + 8 * (v / 2), column = lane % 4 * 2 + v % 2;
        float sum = d[v];
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2;
            const unsigned* left = held[warp * WARP + row % 8 * 4 + pair];
            const unsigned* right = held[warp * WARP + column * 4 + pair];
            sum += bf16_of(left[row / 8 + 2 * (k / 8)], k % 2) * bf16_of(right[4 + k / 8], k % 2);
        }
        d[v] = sum;
    }
    wait(warp_wide[warp], WARP);
}
