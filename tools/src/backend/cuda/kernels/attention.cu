// Self-attention of few tokens: one block for each sample and head, block = sample · heads + head. In bf16 those of up to
// 64 tokens are in tensor_attention.cu.
//
// A token's 3 · channels are queries, keys, values, each heads × size. Scores and slopes are floats in global memory, like
// weights in size: a block's few tokens live in its L1.

static __device__ __forceinline__ float dot(unsigned n, const act* a, const act* b) {
    float sum = 0.0f;
    for (unsigned i = 0; i < n; i++) sum += load(a + i) * load(b + i);
    return sum;
}

// weights gets the softmax, [N, heads, tokens, tokens].
extern "C" __global__ void attention(unsigned tokens, unsigned channels, unsigned heads, const act* qkv, act* out,
                                     act* weights, float* scores) {
    unsigned size = channels / heads, head = blockIdx.x % heads, sample = blockIdx.x / heads;
    unsigned row = 3 * channels;
    const act* q = qkv + sample * tokens * row + head * size;
    const act* k = q + channels;
    const act* v = k + channels;
    act* w = weights + blockIdx.x * tokens * tokens;
    float scale = 1.0f / sqrtf((float)size);
    float* s = scores + blockIdx.x * tokens * tokens;
    for (unsigned e = threadIdx.x; e < tokens * tokens; e += BLOCK) {
        s[e] = dot(size, q + e / tokens * row, k + e % tokens * row) * scale;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < tokens; i += BLOCK) {
        float* line = s + i * tokens;
        float max = line[0], sum = 0.0f;
        for (unsigned j = 1; j < tokens; j++) max = fmaxf(max, line[j]);
        for (unsigned j = 0; j < tokens; j++) {
            line[j] = expf(line[j] - max);
            sum += line[j];
        }
        for (unsigned j = 0; j < tokens; j++) store(w + i * tokens + j, line[j] / sum);
    }
    __syncthreads();
    for (unsigned e = threadIdx.x; e < tokens * size; e += BLOCK) {
        unsigned i = e / size, c = e % size;
        float sum = 0.0f;
        for (unsigned j = 0; j < tokens; j++) sum += load(w + i * tokens + j) * load(v + j * row + c);
        store(out + (sample * tokens + i) * channels + head * size + c, sum);
    }
}

// slopes is the gradient of the scores before softmax.
extern "C" __global__ void attention_grad(unsigned tokens, unsigned channels, unsigned heads, const act* qkv,
                                          const act* weights, const act* grad, float* slopes, act* out) {
    unsigned size = channels / heads, head = blockIdx.x % heads, sample = blockIdx.x / heads;
    unsigned row = 3 * channels;
    const act* q = qkv + sample * tokens * row + head * size;
    const act* k = q + channels;
    const act* v = k + channels;
    const act* w = weights + blockIdx.x * tokens * tokens;
    const act* g = grad + sample * tokens * channels + head * size;
    float* s = slopes + blockIdx.x * tokens * tokens;
    float scale = 1.0f / sqrtf((float)size);
    for (unsigned e = threadIdx.x; e < tokens * tokens; e += BLOCK) {
        s[e] = dot(size, g + e / tokens * channels, v + e % tokens * row);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < tokens; i += BLOCK) {
        float mean = 0.0f;
        for (unsigned e = i * tokens; e < (i + 1) * tokens; e++) mean += load(w + e) * s[e];
        for (unsigned e = i * tokens; e < (i + 1) * tokens; e++) s[e] = load(w + e) * (s[e] - mean) * scale;
    }
    __syncthreads();
    act* to = out + sample * tokens * row + head * size;
    for (unsigned e = threadIdx.x; e < tokens * size; e += BLOCK) {
        unsigned t = e / size, c = e % size;
        float dq = 0.0f, dk = 0.0f, dv = 0.0f;
        for (unsigned u = 0; u < tokens; u++) {
            dq += s[t * tokens + u] * load(k + u * row + c);
            dk += s[u * tokens + t] * load(q + u * row + c);
            dv += load(w + u * tokens + t) * load(g + u * channels + c);
        }
        store(to + t * row + c, dq);
        store(to + t * row + channels + c, dk);
        store(to + t * row + 2 * channels + c, dv);
    }
}
