// Row-major matrix products for machines without cublasLt: tiles of 64 × 64, 4 × 4 of them a thread.

#define TILE 64
#define DEPTH 16

// out = op(a) · op(b), where op(a) is rows × depth and op(b) depth × columns; a transposed operand is stored the
// other way round. Slice blockIdx.z of the depth, `slice` long, goes to out + z · rows · columns.
template <bool transpose_a, bool transpose_b, typename In, typename Out>
static __device__ void gemm(unsigned rows, unsigned columns, unsigned depth, unsigned slice, const In* a, const In* b,
                            Out* out) {
    __shared__ float tile_a[DEPTH][TILE + 1];
    __shared__ float tile_b[DEPTH][TILE + 1];
    unsigned first = blockIdx.z * slice, last = first + slice < depth ? first + slice : depth;
    unsigned row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    unsigned ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float sums[4][4] = {};
    for (unsigned k0 = first; k0 < last; k0 += DEPTH) {
        for (unsigned e = threadIdx.x; e < TILE * DEPTH; e += BLOCK) {
            // Neighbouring threads read neighbouring elements.
            unsigned r = transpose_a ? e % TILE : e / DEPTH, ka = k0 + (transpose_a ? e / TILE : e % DEPTH);
            unsigned c = transpose_b ? e / DEPTH : e % TILE, kb = k0 + (transpose_b ? e % DEPTH : e / TILE);
            unsigned row = row0 + r, column = column0 + c;
            bool in_a = row < rows && ka < last, in_b = column < columns && kb < last;
            tile_a[ka - k0][r] = in_a ? load(a + (transpose_a ? ka * rows + row : row * depth + ka)) : 0.0f;
            tile_b[kb - k0][c] = in_b ? load(b + (transpose_b ? column * depth + kb : kb * columns + column)) : 0.0f;
        }
        __syncthreads();
        for (unsigned k = 0; k < DEPTH; k++) {
            float left[4], right[4];
            for (int i = 0; i < 4; i++) left[i] = tile_a[k][ty + 16 * i];
            for (int j = 0; j < 4; j++) right[j] = tile_b[k][tx + 16 * j];
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) sums[i][j] += left[i] * right[j];
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            unsigned row = row0 + ty + 16 * i, column = column0 + tx + 16 * j;
            if (row < rows && column < columns) store(out + (blockIdx.z * rows + row) * columns + column, sums[i][j]);
        }
    }
}

extern "C" __global__ void gemm_nn(unsigned rows, unsigned columns, unsigned depth, unsigned slice, const act* a,
                                   const act* b, act* out) {
    gemm<false, false>(rows, columns, depth, slice, a, b, out);
}

extern "C" __global__ void gemm_nt(unsigned rows, unsigned columns, unsigned depth, unsigned slice, const act* a,
                                   const act* b, act* out) {
    gemm<false, true>(rows, columns, depth, slice, a, b, out);
}

extern "C" __global__ void gemm_nt_floats(unsigned rows, unsigned columns, unsigned depth, unsigned slice,
                                          const float* a, const float* b, float* out) {
    gemm<false, true>(rows, columns, depth, slice, a, b, out);
}

extern "C" __global__ void gemm_tn(unsigned rows, unsigned columns, unsigned depth, unsigned slice, const act* a,
                                   const act* b, float* out) {
    gemm<true, false>(rows, columns, depth, slice, a, b, out);
}
