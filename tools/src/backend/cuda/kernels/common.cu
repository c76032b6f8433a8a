// What every kernel shares. The files of this folder are one program, compiled in the order of `program.rs`.
//
// Conventions:
// - arrays are NHWC as on the CPU; lengths and indices fit 31 bits (the allocator sees to it);
// - blocks have BLOCK threads;
// - every sum is taken in an order fixed by the shapes: no atomics, so a run repeats bit for bit;
// - no header is included: NVRTC has none on a machine without the toolkit.

#define BLOCK 256

// A float's upper half, by its bits.
typedef unsigned short bf16;

// The type activations are stored in. Arithmetic, statistics and parameters are float whatever it is.
#ifdef BF16_ACTIVATIONS
typedef bf16 act;
#else
typedef float act;
#endif

static __device__ __forceinline__ float load(const float* p) { return *p; }
static __device__ __forceinline__ void store(float* p, float value) { *p = value; }

static __device__ __forceinline__ float load(const bf16* p) { return __uint_as_float((unsigned)*p << 16); }
static __device__ __forceinline__ void store(bf16* p, float value) {
    unsigned bits = __float_as_uint(value);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    // To the nearest, of two equally near to the even one; a NaN stays one.
    *p = (bf16)(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Runs the body for every i < n, whatever the grid.
#define FOR_EACH(i, n) \
    for (unsigned i = blockIdx.x * BLOCK + threadIdx.x; i < (n); i += gridDim.x * BLOCK)

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// d/dy (y · sigmoid(y)).
static __device__ __forceinline__ float silu_slope(float y) {
    float s = sigmoid(y);
    return s * (1.0f + y * (1.0f - s));
}

// The sum of `value` over the block, in every thread. `partial` is shared, BLOCK / 32 elements.
static __device__ float block_sum(float value, float* partial) {
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    __syncthreads();  // the last sum has been read
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = value;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < BLOCK / 32; warp++) sum += partial[warp];
    return sum;
}

// The same in double, in thread 0. `sums` is shared, BLOCK elements, and not used before.
static __device__ double block_sum_double(double value, double* sums) {
    sums[threadIdx.x] = value;
    for (unsigned half = BLOCK / 2; half > 0; half >>= 1) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}
