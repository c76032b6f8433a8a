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
