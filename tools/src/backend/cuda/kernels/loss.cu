// Losses and their gradients. Sums are in double.

// grad = d/d predicted of the mean over samples of weight · mean (predicted − target)²; partial[block] is the
// block's share of that mean. `sample` is the values of one sample.
extern "C" __global__ void squared_error(unsigned n, unsigned sample, const act* predicted, const float* target,
                                         const float* weights, act* grad, double* partial) {
    __shared__ double sums[BLOCK];
    float share = 1.0f / (float)n;
    double sum = 0.0;
    FOR_EACH(i, n) {
        float weight = weights[i / sample], d = load(predicted + i) - target[i];
        sum += (double)(share * weight * d * d);
        store(grad + i, 2.0f * share * weight * d);
    }
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out[0] = Σ partial. One block.
extern "C" __global__ void sum_partials(unsigned n, const double* partial, float* out) {
    __shared__ double sums[BLOCK];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += BLOCK) sum += partial[i];
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) out[0] = (float)sum;
}

static __device__ __forceinline__ float sign_of(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }

// Gradient of the errors of pictures, fake against real, [N,height,width,channels]: of the mean absolute error, of
// `squared` times the mean squared one, and of `differences` times the mean absolute error of the differences to the
// pixels to the right and below. partial[block] and partial[blocks + block] are the block's sums of |d| and d².
extern "C" __global__ void picture_error(unsigned n, unsigned height, unsigned width, unsigned channels, float squared,
                                         float differences, const act* fake, const float* real, act* grad,
                                         double* partial) {
    __shared__ double sums[BLOCK];
    float share = 1.0f / (float)n;
    double absolute = 0.0, squares = 0.0;
    auto wrong = [&](unsigned i) { return load(fake + i) - real[i]; };
    FOR_EACH(i, n) {
        float d = wrong(i), slope = sign_of(d) + 2.0f * squared * d;
        if (differences > 0.0f) {
            unsigned row = width * channels, x = i / channels % width, y = i / row % height;
            float steps = 0.0f;
            if (x + 1 < width) steps += sign_of(d - wrong(i + channels));
            if (y + 1 < height) steps += sign_of(d - wrong(i + row));
            if (x > 0) steps -= sign_of(wrong(i - channels) - d);
            if (y > 0) steps -= sign_of(wrong(i - row) - d);
            slope += differences * steps;
        }
        store(grad + i, share * slope);
        absolute += fabs((double)d);
        squares += (double)d * (double)d;
    }
    absolute = block_sum_double(absolute, sums);
    __syncthreads();
    squares = block_sum_double(squares, sums);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = absolute * share;
        partial[gridDim.x + blockIdx.x] = squares * share;
    }
}

// The critic's hinge loss, half of it: partial[block] is the block's share of ½ mean max(0, 1 − sign · score).
extern "C" __global__ void hinge(unsigned n, float sign, const act* scores, act* grad, double* partial) {
    __shared__ double sums[BLOCK];
    float share = 0.5f / (float)n;
    double sum = 0.0;
    FOR_EACH(i, n) {
        float short_of = 1.0f - sign * load(scores + i);
        store(grad + i, short_of > 0.0f ? -sign * share : 0.0f);
        sum += (double)(share * fmaxf(short_of, 0.0f));
    }
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out[0] = weight · min(√a / (√b + 1e-4), 1e4); n is 1.
extern "C" __global__ void adaptive_weight(unsigned n, float weight, const float* a, const float* b, float* out) {
    FOR_EACH(i, n) out[i] = weight * fminf(sqrtf(a[i]) / (sqrtf(b[i]) + 1e-4f), 1e4f);
}

// out = weight / max(square_sum[0] / count, 1e-12)
extern "C" __global__ void over_mean_square(unsigned n, float weight, float count, const float* square_sum,
                                            float* out) {
    FOR_EACH(i, n) out[i] = weight / fmaxf(square_sum[0] / count, 1e-12f);
}
