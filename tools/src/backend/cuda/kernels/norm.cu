// Normalisations. Statistics take two passes (mean, then squared deviations) in float.

#define EPSILON 1e-5f

// Mean and 1/σ of the `n` values that `at` names, in every thread.
template <typename At>
static __device__ void mean_and_rstd(unsigned n, const act* x, At at, float* partial, float* mean, float* rstd) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < n; i += BLOCK) sum += load(x + at(i));
    *mean = block_sum(sum, partial) / (float)n;
    sum = 0.0f;
    for (unsigned i = threadIdx.x; i < n; i += BLOCK) {
        float d = load(x + at(i)) - *mean;
        sum += d * d;
    }
    *rstd = 1.0f / sqrtf(block_sum(sum, partial) / (float)n + EPSILON);
}

// Element i of a group: `size` of the `channels` of each pixel.
struct GroupIndex {
    unsigned size, channels;
    __device__ __forceinline__ unsigned operator()(unsigned i) const { return i / size * channels + i % size; }
};

struct RowIndex {
    __device__ __forceinline__ unsigned operator()(unsigned i) const { return i; }
};

// One block for each sample and group: block = sample · groups + group. stats[block] = mean, 1/σ.
extern "C" __global__ void group_norm(unsigned pixels, unsigned channels, unsigned groups, unsigned silu,
                                      const act* x, const float* scale, const float* shift, act* out, float* stats) {
    __shared__ float partial[BLOCK / 32];
    unsigned size = channels / groups, group = blockIdx.x % groups;
    unsigned start = blockIdx.x / groups * pixels * channels + group * size;
    GroupIndex at = {size, channels};
    float mean, rstd;
    mean_and_rstd(pixels * size, x + start, at, partial, &mean, &rstd);
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = rstd;
    }
    for (unsigned i = threadIdx.x; i < pixels * size; i += BLOCK) {
        unsigned c = group * size + i % size;
        float y = (load(x + start + at(i)) - mean) * rstd * scale[c] + shift[c];
        store(out + start + at(i), silu ? y * sigmoid(y) : y);
    }
}

// Gradient before the affine's SiLU.
static __device__ __forceinline__ float through_silu(unsigned silu, float grad, float normal, float scale,
                                                     float shift) {
    return silu ? grad * silu_slope(normal * scale + shift) : grad;
}

// Blocks as in group_norm. `sums` gets Σ dy, then Σ dy·x̂, of each sample's channels: [N, 2, channels].
// Per channel, its threads first sum rows of pixels, then one of them the rows.
extern "C" __global__ void group_norm_grad(unsigned pixels, unsigned channels, unsigned groups, unsigned silu,
                                           const act* x, const float* scale, const float* shift, const float* stats,
                                           const act* grad, act* out, float* sums) {
    __shared__ float partial[BLOCK / 32];
    __shared__ float lines[2][BLOCK];
    unsigned size = channels / groups, group = blockIdx.x % groups, sample = blockIdx.x / groups;
    unsigned start = sample * pixels * channels + group * size;
    float mean = stats[2 * blockIdx.x], rstd = stats[2 * blockIdx.x + 1];
    unsigned wide = size < BLOCK ? size : BLOCK;  // channels at a time
    unsigned tall = BLOCK / wide;                      // lines of pixels at a time
    unsigned column = threadIdx.x % wide, line = threadIdx.x / wide;
    float scaled_shift = 0.0f, scaled_scale = 0.0f;
    for (unsigned c0 = 0; c0 < size; c0 += wide) {
        unsigned c = group * size + c0 + column;
        bool mine = line < tall && c0 + column < size;
        float shift_sum = 0.0f, scale_sum = 0.0f;
        if (mine) {
            for (unsigned p = line; p < pixels; p += tall) {
                unsigned at = start + p * channels + c0 + column;
                float normal = (load(x + at) - mean) * rstd;
                float dy = through_silu(silu, load(grad + at), normal, scale[c], shift[c]);
                shift_sum += dy;
                scale_sum += dy * normal;
            }
        }
        lines[0][threadIdx.x] = shift_sum;
        lines[1][threadIdx.x] = scale_sum;
        __syncthreads();
        if (mine && line == 0) {
            for (unsigned l = 1; l < tall; l++) {
                shift_sum += lines[0][l * wide + column];
                scale_sum += lines[1][l * wide + column];
            }
            sums[2 * sample * channels + c] = shift_sum;
            sums[(2 * sample + 1) * channels + c] = scale_sum;
            scaled_shift += scale[c] * shift_sum;
            scaled_scale += scale[c] * scale_sum;
        }
        __syncthreads();
    }
    float share = 1.0f / (float)(pixels * size);
    float m1 = block_sum(scaled_shift, partial) * share;
    float m2 = block_sum(scaled_scale, partial) * share;
    for (unsigned i = threadIdx.x; i < pixels * size; i += BLOCK) {
        unsigned at = start + i / size * channels + i % size, c = group * size + i % size;
        float normal = (load(x + at) - mean) * rstd;
        float dy = through_silu(silu, load(grad + at), normal, scale[c], shift[c]);
        store(out + at, rstd * (scale[c] * dy - m1 - normal * m2));
    }
}

// One block a row of `len` with an affine per element. stats[row] = mean, 1/σ.
extern "C" __global__ void layer_norm(unsigned len, const act* x, const float* scale, const float* shift, act* out,
                                      float* stats) {
    __shared__ float partial[BLOCK / 32];
    const act* row = x + blockIdx.x * len;
    float mean, rstd;
    mean_and_rstd(len, row, RowIndex(), partial, &mean, &rstd);
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = rstd;
    }
    for (unsigned i = threadIdx.x; i < len; i += BLOCK) {
        store(out + blockIdx.x * len + i, (load(row + i) - mean) * rstd * scale[i] + shift[i]);
    }
}

extern "C" __global__ void layer_norm_grad(unsigned len, const act* x, const float* scale, const float* stats,
                                           const act* grad, act* out) {
    __shared__ float partial[BLOCK / 32];
    unsigned start = blockIdx.x * len;
    float mean = stats[2 * blockIdx.x], rstd = stats[2 * blockIdx.x + 1];
    float plain = 0.0f, along = 0.0f;
    for (unsigned i = threadIdx.x; i < len; i += BLOCK) {
        float dy = load(grad + start + i) * scale[i];
        plain += dy;
        along += dy * (load(x + start + i) - mean) * rstd;
    }
    float m1 = block_sum(plain, partial) / (float)len;
    float m2 = block_sum(along, partial) / (float)len;
    for (unsigned i = threadIdx.x; i < len; i += BLOCK) {
        float dy = load(grad + start + i) * scale[i];
        float normal = (load(x + start + i) - mean) * rstd;
        store(out + start + i, rstd * (dy - m1 - normal * m2));
    }
}

// Adds the gradients of the affine: sums over the batch, element by element.
extern "C" __global__ void layer_norm_grad_affine(unsigned len, unsigned batch, const act* x, const float* stats,
                                                  const act* grad, float* grad_scale, float* grad_shift) {
    FOR_EACH(i, len) {
        float plain = 0.0f, along = 0.0f;
        for (unsigned n = 0; n < batch; n++) {
            float dy = load(grad + n * len + i);
            plain += dy;
            along += dy * (load(x + n * len + i) - stats[2 * n]) * stats[2 * n + 1];
        }
        grad_shift[i] += plain;
        grad_scale[i] += along;
    }
}
