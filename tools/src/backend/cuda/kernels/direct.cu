// Convolutions of bf16 on tensor cores without patches in memory ("implicit GEMM"): tiles of the patches are gathered into
// shared memory as they are needed. Channels are multiples of 8, so that a thread moves 16 bytes at a time.

#define ROWS 128     // of a tile of the result
#define COLUMNS 64   // of it
#define STEP 32      // terms of the sums in shared memory at a time
#define STRIDE 40    // elements from row to row there: no two rows of a fragment meet in a bank

// A map that is read, and the kernel's way over it.
struct Source {
    unsigned height, width, channels, rows, columns, stride, above, left;
    const bf16* map;

    // Eight channels of what stands under `tap` at (y, x) of the map that is written; zeros outside. Backward it is the
    // place from which the kernel saw (y, x) under that tap.
    template <bool backward>
    __device__ __forceinline__ Eight at(bool there, unsigned sample, unsigned y, unsigned x, unsigned tap,
                                        unsigned channel) const {
        unsigned ky = tap / columns, kx = tap % columns, row, col;
        if (backward) {
            row = y + above - ky;
            col = x + left - kx;
            there = there && y + above >= ky && x + left >= kx && row % stride == 0 && col % stride == 0;
            row /= stride;
            col /= stride;
        } else {
            // Above or left of the map they wrap to large numbers.
            row = y * stride + ky - above;
            col = x * stride + kx - left;
        }
        if (!there || row >= height || col >= width) return {};
        return *(const Eight*)(map + ((sample * height + row) * width + col) * channels + channel);
    }
};

// A warp's part of a tile: `DOWN` × 4 fragments of the product of rows from `row` of a and rows from `column` of b, both
// with STEP terms a row.
template <int DOWN>
static __device__ __forceinline__ void multiply_tiles(const bf16* a, const bf16* b, unsigned row, unsigned column,
                                                      float sums[DOWN][4][4]) {
    unsigned lane = threadIdx.x & 31, group = lane >> 2, pair = (lane & 3) * 2;
    for (unsigned k = 0; k < STEP; k += 16) {
        unsigned left[DOWN][4], right[4][2];
        for (int i = 0; i < DOWN; i++) {
            const bf16* at = a + (row + 16 * i + group) * STRIDE + k + pair;
            left[i][0] = *(const unsigned*)at;
            left[i][1] = *(const unsigned*)(at + 8 * STRIDE);
            left[i][2] = *(const unsigned*)(at + 8);
            left[i][3] = *(const unsigned*)(at + 8 * STRIDE + 8);
        }
        for (int j = 0; j < 4; j++) {
            const bf16* at = b + (column + 8 * j + group) * STRIDE + k + pair;
            right[j][0] = *(const unsigned*)at;
            right[j][1] = *(const unsigned*)(at + 8);
        }
        for (int i = 0; i < DOWN; i++) {
            for (int j = 0; j < 4; j++) mma(sums[i][j], left[i], right[j]);
        }
    }
}

// Eight values as eight rows' elements at `k`, which is the thread's place in its warp: so its stores lie side by side.
static __device__ __forceinline__ void store_across(bf16* rows, unsigned k, const Eight& values) {
    for (int i = 0; i < 8; i++) rows[i * STRIDE + k] = values.values[i];
}

// The convolution, or backward the gradient of its input: out [m, n] of pixels and channels, where m counts the pixels of
// all samples of a map of out_height × out_width. Weights are [taps, inputs, outputs] either way.
template <bool backward>
static __device__ void direct(unsigned m, unsigned n, unsigned out_height, unsigned out_width, const Source& source,
                              const bf16* weight, const float* bias, bf16* out) {
    alignas(16) __shared__ bf16 tile_a[2][ROWS * STRIDE];
    alignas(16) __shared__ bf16 tile_b[2][COLUMNS * STRIDE];
    unsigned row0 = blockIdx.x * ROWS, column0 = blockIdx.y * COLUMNS, depth = source.rows * source.columns * source.channels;
    // A thread gathers eight terms of two rows: of a, always of the same two pixels.
    unsigned line = threadIdx.x / 4, eighth = threadIdx.x % 4 * 8;
    unsigned sample[2], y[2], x[2];
    for (int i = 0; i < 2; i++) {
        unsigned pixel = row0 + line + 64 * i;
        sample[i] = pixel / (out_width * out_height);
        y[i] = pixel / out_width % out_height;
        x[i] = pixel % out_width;
    }
    Eight next_a[2], next_b;
    auto gather = [&](unsigned k0) {
        unsigned k = k0 + eighth, tap = k / source.channels, channel = k % source.channels;
        for (int i = 0; i < 2; i++) {
            bool there = row0 + line + 64 * i < m && k < depth;
            next_a[i] = source.at<backward>(there, sample[i], y[i], x[i], tap, channel);
        }
        next_b = {};
        if (backward) {
            // [taps, n, channels]: a column's terms follow each other.
            unsigned column = column0 + line;
            if (column < n && k < depth) next_b = *(const Eight*)(weight + (tap * n + column) * source.channels + channel);
        } else {
            unsigned term = k0 + threadIdx.x % 32, column = column0 + threadIdx.x / 32 * 8;
            if (column < n && term < depth) next_b = *(const Eight*)(weight + term * n + column);
        }
    };
    auto put = [&](unsigned buffer) {
        for (int i = 0; i < 2; i++) *(Eight*)(tile_a[buffer] + (line + 64 * i) * STRIDE + eighth) = next_a[i];
        if (backward) *(Eight*)(tile_b[buffer] + line * STRIDE + eighth) = next_b;
        else store_across(tile_b[buffer] + threadIdx.x / 32 * 8 * STRIDE, threadIdx.x % 32, next_b);
    };
    unsigned warp = threadIdx.x >> 5, row = warp / 2 * 32, column = warp % 2 * 32;
    float sums[2][4][4] = {};
    gather(0);
    put(0);
    __syncthreads();
    for (unsigned k0 = 0, buffer = 0; k0 < depth; k0 += STEP, buffer ^= 1) {
        bool more = k0 + STEP < depth;
        if (more) gather(k0 + STEP);  // while the tensor cores work
        multiply_tiles<2>(tile_a[buffer], tile_b[buffer], row, column, sums);
        if (more) put(buffer ^ 1);
        __syncthreads();
    }
    unsigned lane = threadIdx.x & 31;
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
            unsigned c = column0 + column + 8 * j + (lane & 3) * 2;
            for (int half = 0; half < 2; half++) {
                unsigned r = row0 + row + 16 * i + 8 * half + (lane >> 2);
                if (r >= m || c >= n) continue;
                Pack<bf16, 2> pair;
                for (int v = 0; v < 2; v++) {
                    store(pair.values + v, sums[i][j][2 * half + v] + (backward ? 0.0f : bias[c + v]));
                }
                *(Pack<bf16, 2>*)(out + r * n + c) = pair;
            }
        }
    }
}

extern "C" __global__ void direct_conv(unsigned m, unsigned n, unsigned out_height, unsigned out_width,
                                       unsigned height, unsigned width, unsigned channels, unsigned rows,
                                       unsigned columns, unsigned stride, unsigned above, unsigned left, const act* x,
                                       const act* weight, const float* bias, act* out) {
    Source source = {height, width, channels, rows, columns, stride, above, left, x};
    direct<false>(m, n, out_height, out_width, source, weight, bias, out);
}

// `height` and so on are those of the gradient that is given, out_height and out_width those of the input.
extern "C" __global__ void direct_conv_grad_input(unsigned m, unsigned n, unsigned out_height, unsigned out_width,
                                                  unsigned height, unsigned width, unsigned channels, unsigned rows,
                                                  unsigned columns, unsigned stride, unsigned above, unsigned left,
                                                  const act* grad, const act* weight, act* out) {
    Source source = {height, width, channels, rows, columns, stride, above, left, grad};
    direct<true>(m, n, out_height, out_width, source, weight, nullptr, out);
}

// The gradient of the weights: partial[slice][taps · channels][outputs], of slice blockIdx.z of the pixels of `grad`
// [pixels, outputs], which is out_height × out_width a sample. Tiles of 64 × 64.
extern "C" __global__ void direct_conv_grad_weight(unsigned pixels, unsigned outputs, unsigned slice,
                                                   unsigned out_height, unsigned out_width, unsigned height,
                                                   unsigned width, unsigned channels, unsigned rows, unsigned columns,
                                                   unsigned stride, unsigned above, unsigned left, const act* x,
                                                   const act* grad, float* partial) {
    alignas(16) __shared__ bf16 tile_a[2][64 * STRIDE];
    alignas(16) __shared__ bf16 tile_b[2][64 * STRIDE];
    Source source = {height, width, channels, rows, columns, stride, above, left, x};
    unsigned depth = rows * columns * channels, row0 = blockIdx.x * 64, column0 = blockIdx.y * 64;
    unsigned first = blockIdx.z * slice, last = first + slice < pixels ? first + slice : pixels;
    // A thread gathers eight rows of one term, of a and of b.
    unsigned eighth = threadIdx.x / 32 * 8, term = threadIdx.x % 32;
    unsigned k = row0 + eighth, tap = k / channels, channel = k % channels;
    Eight next_a, next_b;
    auto gather = [&](unsigned pixel0) {
        unsigned pixel = pixel0 + term;
        bool there = pixel < last;
        next_a = source.at<false>(there && k < depth, pixel / (out_width * out_height), pixel / out_width % out_height,
                                  pixel % out_width, tap, channel);
        next_b = {};
        if (there && column0 + eighth < outputs) next_b = *(const Eight*)(grad + pixel * outputs + column0 + eighth);
    };
    auto put = [&](unsigned buffer) {
        store_across(tile_a[buffer] + eighth * STRIDE, term, next_a);
        store_across(tile_b[buffer] + eighth * STRIDE, term, next_b);
    };
    unsigned warp = threadIdx.x >> 5, row = warp / 2 * 16, column = warp % 2 * 32;
    float sums[1][4][4] = {};
    gather(first);
    put(0);
    __syncthreads();
    for (unsigned pixel0 = first, buffer = 0; pixel0 < last; pixel0 += STEP, buffer ^= 1) {
        bool more = pixel0 + STEP < last;
        if (more) gather(pixel0 + STEP);
        multiply_tiles<1>(tile_a[buffer], tile_b[buffer], row, column, sums);
        if (more) put(buffer ^ 1);
        __syncthreads();
    }
    unsigned lane = threadIdx.x & 31;
    for (int j = 0; j < 4; j++) {
        for (int v = 0; v < 4; v++) {
            unsigned r = row0 + row + 8 * (v / 2) + (lane >> 2), c = column0 + column + 8 * j + (lane & 3) * 2 + v % 2;
            if (r < depth && c < outputs) partial[(blockIdx.z * depth + r) * outputs + c] = sums[0][j][v];
        }
    }
}

#undef ROWS
#undef COLUMNS
#undef STEP
#undef STRIDE
