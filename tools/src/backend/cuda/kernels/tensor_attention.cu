// Self-attention of at most TOKENS tokens on tensor cores: one block for each sample and head, as in attention.cu. Heads of
// any size pass through shared memory CHUNK channels at a time, padded with zeros.

#define TOKENS 64
#define CHUNK 64
#define STRIDE 72  // elements from row to row of a tile: no two lanes of a fragment meet in a bank
#define SCORES 68  // the same of the scores, floats, where a warp reads eight rows of four

// A head's rows in memory, and the tokens of a tile: `padded` is a multiple of 16.
struct Head {
    unsigned tokens, padded, size;
    bool by_eight;  // whether all rows begin at a multiple of 8 elements

    __device__ Head(unsigned tokens, unsigned channels, unsigned size)
        : tokens(tokens), padded((tokens + 15) / 16 * 16), size(size), by_eight((channels | size) % 8 == 0) {}

    // Channels of the chunk at `first`.
    __device__ __forceinline__ unsigned columns(unsigned first) const {
        return size - first < CHUNK ? size - first : CHUNK;
    }

    // The chunk at `first` of rows that lie `row` elements apart.
    __device__ void gather(const bf16* from, unsigned row, unsigned first, bf16* tile) const {
        unsigned given = columns(first), wide = (given + 15) / 16 * 16;
        if (by_eight) {
            for (unsigned e = threadIdx.x; e < padded * wide / 8; e += BLOCK) {
                unsigned t = e / (wide / 8), c = e % (wide / 8) * 8;
                Eight values = {};
                if (t < tokens && c < given) values = *(const Eight*)(from + t * row + first + c);
                *(Eight*)(tile + t * STRIDE + c) = values;
            }
            return;
        }
        for (unsigned e = threadIdx.x; e < padded * wide; e += BLOCK) {
            unsigned t = e / wide, c = e % wide;
            tile[t * STRIDE + c] = t < tokens && c < given ? from[t * row + first + c] : 0;
        }
    }
};

// Two terms, k and k + 1, of a row of a tile; `across`, of a column.
template <bool across>
static __device__ __forceinline__ unsigned terms(const bf16* tile, unsigned row, unsigned k) {
    if (!across) return *(const unsigned*)(tile + row * STRIDE + k);
    return tile[k * STRIDE + row] | (unsigned)tile[(k + 1) * STRIDE + row] << 16;
}

// Adds a · b, of `depth` terms, to a warp's fragment of 16 × 8 at (row, column).
template <bool a_across, bool b_across>
static __device__ __forceinline__ void add_product(const bf16* a, const bf16* b, unsigned depth, unsigned row,
                                                   unsigned column, float* sums) {
    unsigned lane = threadIdx.x & 31, group = lane >> 2, pair = (lane & 3) * 2;
    for (unsigned k = pair; k < depth; k += 16) {
        unsigned left[4], right[2];
        for (int i = 0; i < 4; i++) left[i] = terms<a_across>(a, row + group + i % 2 * 8, k + i / 2 * 8);
        for (int i = 0; i < 2; i++) right[i] = terms<b_across>(b, column + group, k + i * 8);
        mma(sums, left, right);
    }
}

// Calls put(row, column, value) for what a thread has of a fragment.
template <typename Put>
static __device__ __forceinline__ void each_of(const float* sums, unsigned row, unsigned column, Put put) {
    unsigned lane = threadIdx.x & 31;
    for (unsigned v = 0; v < 4; v++) put(row + v / 2 * 8 + (lane >> 2), column + (lane & 3) * 2 + v % 2, sums[v]);
}

// scores = a · bᵀ over all channels of two arrays of rows. Needs no barrier before, leaves one behind.
static __device__ void compare(const Head& head, const bf16* a, unsigned a_row, const bf16* b, unsigned b_row,
                               bf16* tile_a, bf16* tile_b, float* scores) {
    unsigned warp = threadIdx.x >> 5, across = head.padded / 8, count = head.padded / 16 * across;
    float sums[TOKENS / 16][4] = {};  // 8 warps share (64 / 16) · (64 / 8) fragments
    for (unsigned first = 0; first < head.size; first += CHUNK) {
        __syncthreads();
        head.gather(a, a_row, first, tile_a);
        head.gather(b, b_row, first, tile_b);
        __syncthreads();
        unsigned depth = (head.columns(first) + 15) / 16 * 16;
        for (unsigned i = 0; i < TOKENS / 16; i++) {
            unsigned f = warp + i * (BLOCK / 32);
            if (f < count) add_product<false, false>(tile_a, tile_b, depth, f / across * 16, f % across * 8, sums[i]);
        }
    }
    for (unsigned i = 0; i < TOKENS / 16; i++) {
        unsigned f = warp + i * (BLOCK / 32);
        if (f >= count) continue;
        each_of(sums[i], f / across * 16, f % across * 8,
                [&](unsigned r, unsigned c, float value) { scores[r * SCORES + c] = value; });
    }
    __syncthreads();
}

// out = weights · rows, or `transposed` weightsᵀ · rows, where both are in shared memory: the chunk at `first`.
template <bool transposed>
static __device__ void mix(const Head& head, const bf16* weights, const bf16* rows, unsigned first, bf16* out,
                           unsigned row) {
    unsigned given = head.columns(first), across = (given + 7) / 8, count = head.padded / 16 * across;
    for (unsigned f = threadIdx.x >> 5; f < count; f += BLOCK / 32) {
        float sums[4] = {};
        add_product<transposed, true>(weights, rows, head.padded, f / across * 16, f % across * 8, sums);
        each_of(sums, f / across * 16, f % across * 8, [&](unsigned t, unsigned c, float value) {
            if (t < head.tokens && c < given) store(out + t * row + first + c, value);
        });
    }
}

// Over the four threads of a row.
static __device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

static __device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

extern "C" __global__ void tensor_attention(unsigned tokens, unsigned channels, unsigned heads, const act* qkv,
                                            act* out, act* weights) {
    alignas(16) __shared__ bf16 tile_a[TOKENS * STRIDE];
    alignas(16) __shared__ bf16 tile_b[TOKENS * STRIDE];
    __shared__ float scores[TOKENS * SCORES];
    Head head(tokens, channels, channels / heads);
    unsigned sample = blockIdx.x / heads, start = blockIdx.x % heads * head.size, row = 3 * channels;
    const bf16* q = qkv + sample * tokens * row + start;
    compare(head, q, row, q + channels, row, tile_a, tile_b, scores);
    bf16* w = weights + blockIdx.x * tokens * tokens;
    unsigned i = threadIdx.x / 4;
    float* line = scores + i * SCORES;
    float scale = 1.0f / sqrtf((float)head.size), most = __uint_as_float(0xff800000u), sum = 0.0f;  // −∞
    if (i < tokens) {
        for (unsigned j = threadIdx.x % 4; j < tokens; j += 4) most = fmaxf(most, line[j] * scale);
    }
    most = row_max(most);
    if (i < tokens) {
        for (unsigned j = threadIdx.x % 4; j < tokens; j += 4) {
            line[j] = expf(line[j] * scale - most);
            sum += line[j];
        }
    }
    sum = row_sum(sum);
    // The tile of queries, which have been read, becomes that of the weights.
    if (i < head.padded) {
        for (unsigned j = threadIdx.x % 4; j < head.padded; j += 4) {
            bf16 weight = 0;
            if (i < tokens && j < tokens) {
                store(&weight, line[j] / sum);
                w[i * tokens + j] = weight;
            }
            tile_a[i * STRIDE + j] = weight;
        }
    }
    for (unsigned first = 0; first < head.size; first += CHUNK) {
        __syncthreads();
        head.gather(q + 2 * channels, row, first, tile_b);
        __syncthreads();
        mix<false>(head, tile_a, tile_b, first, out + sample * tokens * channels + start, channels);
    }
}

extern "C" __global__ void tensor_attention_grad(unsigned tokens, unsigned channels, unsigned heads, const act* qkv,
                                                 const act* weights, const act* grad, act* out) {
    alignas(16) __shared__ bf16 tile_a[TOKENS * STRIDE];
    alignas(16) __shared__ bf16 tile_b[TOKENS * STRIDE];
    // First the gradient of the weights, then a tile of rows.
    alignas(16) __shared__ float slopes[TOKENS * SCORES];
    Head head(tokens, channels, channels / heads);
    unsigned sample = blockIdx.x / heads, start = blockIdx.x % heads * head.size, row = 3 * channels;
    const bf16* q = qkv + sample * tokens * row + start;
    const bf16* g = grad + sample * tokens * channels + start;
    compare(head, g, channels, q + 2 * channels, row, tile_a, tile_b, slopes);
    const bf16* w = weights + blockIdx.x * tokens * tokens;
    unsigned i = threadIdx.x / 4;
    const float* line = slopes + i * SCORES;
    float scale = 1.0f / sqrtf((float)head.size), mean = 0.0f;
    if (i < tokens) {
        for (unsigned j = threadIdx.x % 4; j < tokens; j += 4) mean += load(w + i * tokens + j) * line[j];
    }
    mean = row_sum(mean);
    // Weights and the gradient of the scores take the place of the tiles, which have been read.
    if (i < head.padded) {
        for (unsigned j = threadIdx.x % 4; j < head.padded; j += 4) {
            bf16 weight = 0, slope = 0;
            if (i < tokens && j < tokens) {
                weight = w[i * tokens + j];
                store(&slope, load(&weight) * (line[j] - mean) * scale);
            }
            tile_a[i * STRIDE + j] = weight;
            tile_b[i * STRIDE + j] = slope;
        }
    }
    bf16* rows = (bf16*)slopes;
    bf16* to = out + sample * tokens * row + start;
    for (unsigned first = 0; first < head.size; first += CHUNK) {
        __syncthreads();
        head.gather(g, channels, first, rows);
        __syncthreads();
        mix<true>(head, tile_a, rows, first, to + 2 * channels, row);
        __syncthreads();
        head.gather(q + channels, row, first, rows);
        __syncthreads();
        mix<false>(head, tile_b, rows, first, to, row);
        __syncthreads();
        head.gather(q, row, first, rows);
        __syncthreads();
        mix<true>(head, tile_b, rows, first, to + channels, row);
    }
}

#undef TOKENS
#undef CHUNK
#undef STRIDE
#undef SCORES
