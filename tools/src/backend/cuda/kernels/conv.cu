// Convolution as matrix products over patches. `above` and `left` are the rows and columns of zeros before the map.

// Channels are taken four at a time where they are a multiple of four: index arithmetic costs more than memory.
#define BY_FOUR(channels, work)    \
    if ((channels) % 4 == 0) {     \
        constexpr int N = 4;       \
        work;                      \
    } else {                       \
        constexpr int N = 1;       \
        work;                      \
    }

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T values[N];
};

// Patches of x [N,height,width,channels]: out[(n,y,x), (ky,kx,c)] for every output pixel; n counts elements.
template <int N>
static __device__ void gather_patches(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned rows,
                                      unsigned columns, unsigned stride, unsigned above, unsigned left,
                                      unsigned out_h, unsigned out_w, const act* x, act* out) {
    unsigned depth = rows * columns * channels;
    FOR_EACH(pack, n / N) {
        unsigned k = pack * N % depth, pixel = pack * N / depth;
        unsigned c = k % channels, tap = k / channels;
        // Above or left of the picture they wrap to large numbers.
        unsigned row = pixel / out_w % out_h * stride + tap / columns - above;
        unsigned col = pixel % out_w * stride + tap % columns - left;
        unsigned sample = pixel / (out_w * out_h);
        Pack<act, N> from = {};
        if (row < height && col < width) {
            from = *(const Pack<act, N>*)(x + ((sample * height + row) * width + col) * channels + c);
        }
        *(Pack<act, N>*)(out + pack * N) = from;
    }
}

extern "C" __global__ void patches(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned rows,
                                   unsigned columns, unsigned stride, unsigned above, unsigned left, unsigned out_h,
                                   unsigned out_w, const act* x, act* out) {
    BY_FOUR(channels, gather_patches<N>(n, height, width, channels, rows, columns, stride, above, left, out_h, out_w,
                                        x, out))
}

// Calls work(tap, place) for every place on the map, of out_h × out_w, from which a window sees pixel (row, col), tap by
// tap in order.
template <typename Work>
static __device__ __forceinline__ void for_places(unsigned row, unsigned col, unsigned rows, unsigned columns,
                                                  unsigned stride, unsigned above, unsigned left, unsigned out_h,
                                                  unsigned out_w, Work work) {
    for (unsigned ky = 0; ky < rows; ky++) {
        unsigned down = row + above - ky;
        if (row + above < ky || down % stride != 0 || down / stride >= out_h) continue;
        for (unsigned kx = 0; kx < columns; kx++) {
            unsigned right = col + left - kx;
            if (col + left < kx || right % stride != 0 || right / stride >= out_w) continue;
            work(ky * columns + kx, down / stride * out_w + right / stride);
        }
    }
}

// The adjoint of gather_patches: out[n,y,x,c] is the sum of all places where that pixel stands in grad, tap by tap;
// n counts elements of out.
template <int N>
static __device__ void sum_patches(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned rows,
                                   unsigned columns, unsigned stride, unsigned above, unsigned left, unsigned out_h,
                                   unsigned out_w, const act* grad, act* out) {
    unsigned depth = rows * columns * channels;
    FOR_EACH(pack, n / N) {
        unsigned c = pack * N % channels, pixel = pack * N / channels;
        unsigned col = pixel % width, row = pixel / width % height, sample = pixel / (width * height);
        float sums[N] = {};
        for_places(row, col, rows, columns, stride, above, left, out_h, out_w, [&](unsigned tap, unsigned place) {
            const act* patch = grad + (sample * out_h * out_w + place) * depth;
            Pack<act, N> from = *(const Pack<act, N>*)(patch + tap * channels + c);
            for (int v = 0; v < N; v++) sums[v] += load(from.values + v);
        });
        Pack<act, N> to;
        for (int v = 0; v < N; v++) store(to.values + v, sums[v]);
        *(Pack<act, N>*)(out + pack * N) = to;
    }
}

extern "C" __global__ void patches_grad(unsigned n, unsigned height, unsigned width, unsigned channels,
                                        unsigned rows, unsigned columns, unsigned stride, unsigned above,
                                        unsigned left, unsigned out_h, unsigned out_w, const act* grad, act* out) {
    BY_FOUR(channels, sum_patches<N>(n, height, width, channels, rows, columns, stride, above, left, out_h, out_w,
                                     grad, out))
}

// Floats as activations.
extern "C" __global__ void to_activations(unsigned n, const float* x, act* out) {
    FOR_EACH(i, n) store(out + i, x[i]);
}

// Activations as floats.
extern "C" __global__ void to_floats(unsigned n, const act* x, float* out) {
    FOR_EACH(i, n) out[i] = load(x + i);
}

// The transpose of x, of rows × columns; n counts elements. It makes cuDNN's filters [outputs, taps, inputs] of weights
// [taps, inputs, outputs].
extern "C" __global__ void transpose(unsigned n, unsigned rows, unsigned columns, const act* x, act* out) {
    FOR_EACH(i, n) out[i] = x[i % rows * columns + i / rows];
}

// Adds the transpose of x, of rows × columns; n counts elements.
extern "C" __global__ void add_transposed(unsigned n, unsigned rows, unsigned columns, const act* x, float* out) {
    FOR_EACH(i, n) out[i] += load(x + i % rows * columns + i / rows);
}

// out[row, :] += bias; n counts elements.
extern "C" __global__ void add_bias(unsigned n, unsigned columns, const float* bias, act* out) {
    FOR_EACH(i, n) store(out + i, load(out + i) + bias[i % columns]);
}
