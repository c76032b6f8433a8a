// AdamW (Loshchilov & Hutter 2019) over all tensors at once, with gradients clipped by their common norm and a
// moving average of the weights. A block does one chunk of one tensor.

struct Chunk {
    float* grad;
    float* value;
    float* first;
    float* second;
    float* average;
    bf16* narrow;  // a copy of the value; null where there is none
    unsigned long long len;
    unsigned long long decays;
};

// partial[chunk] = Σ grad².
extern "C" __global__ void chunk_square_sums(const Chunk* chunks, double* partial) {
    __shared__ double sums[BLOCK];
    Chunk chunk = chunks[blockIdx.x];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < (unsigned)chunk.len; i += BLOCK) {
        sum += (double)chunk.grad[i] * (double)chunk.grad[i];
    }
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// grad_scale[0] is what brings the norm down to max_norm, at most 1. One block.
extern "C" __global__ void clip(unsigned n, float max_norm, const double* partial, float* grad_scale) {
    __shared__ double sums[BLOCK];
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < n; i += BLOCK) sum += partial[i];
    double norm = sqrt(block_sum_double(sum, sums));
    if (threadIdx.x == 0) grad_scale[0] = norm > (double)max_norm ? max_norm / (float)norm : 1.0f;
}

// pace is the rate, the factors of bias correction of the two moments, and the decay of the average.
extern "C" __global__ void adamw(float beta1, float beta2, float weight_decay, const float* pace,
                                 const float* grad_scale, const Chunk* chunks) {
    float rate = pace[0], correct1 = pace[1], correct2 = pace[2], average_decay = pace[3];
    Chunk chunk = chunks[blockIdx.x];
    float scale = grad_scale[0], decay = chunk.decays ? weight_decay : 0.0f;
    for (unsigned i = threadIdx.x; i < (unsigned)chunk.len; i += BLOCK) {
        float g = chunk.grad[i] * scale;
        chunk.grad[i] = 0.0f;
        float first = beta1 * chunk.first[i] + (1.0f - beta1) * g;
        float second = beta2 * chunk.second[i] + (1.0f - beta2) * g * g;
        float update = first * correct1 / (sqrtf(second * correct2) + 1e-8f);
        float w = chunk.value[i];
        w -= rate * (update + decay * w);
        chunk.first[i] = first;
        chunk.second[i] = second;
        chunk.value[i] = w;
        if (chunk.narrow) store(chunk.narrow + i, w);
        chunk.average[i] = average_decay * chunk.average[i] + (1.0f - average_decay) * w;
    }
}
