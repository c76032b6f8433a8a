// Sums in two passes: slices first, then the slices in order.

// Sums of the columns of rows × columns, one partial sum for each of gridDim.y slices of `slice_rows` rows:
// partial[slice, column]. A block has 32 columns, 8 rows at a time.
template <typename T>
static __device__ void sum_columns(unsigned rows, unsigned columns, unsigned slice_rows, const T* x, float* partial) {
    __shared__ float sums[BLOCK / 32][32];
    unsigned lane = threadIdx.x & 31, line = threadIdx.x >> 5;
    unsigned column = blockIdx.x * 32 + lane;
    unsigned first = blockIdx.y * slice_rows;
    unsigned last = first + slice_rows < rows ? first + slice_rows : rows;
    float sum = 0.0f;
    if (column < columns) {
        for (unsigned row = first + line; row < last; row += BLOCK / 32) sum += load(x + row * columns + column);
    }
    sums[line][lane] = sum;
    __syncthreads();
    if (line == 0 && column < columns) {
        for (unsigned i = 1; i < BLOCK / 32; i++) sum += sums[i][lane];
        partial[blockIdx.y * columns + column] = sum;
    }
}

extern "C" __global__ void column_sums(unsigned rows, unsigned columns, unsigned slice_rows, const act* x,
                                       float* partial) {
    sum_columns(rows, columns, slice_rows, x, partial);
}

extern "C" __global__ void column_sums_floats(unsigned rows, unsigned columns, unsigned slice_rows, const float* x,
                                              float* partial) {
    sum_columns(rows, columns, slice_rows, x, partial);
}

// out[i] += Σ_slice partial[slice · stride + offset + i], for i < n.
extern "C" __global__ void add_partials(unsigned n, unsigned slices, unsigned stride, unsigned offset,
                                        const float* partial, float* out) {
    FOR_EACH(i, n) {
        float sum = 0.0f;
        for (unsigned slice = 0; slice < slices; slice++) sum += partial[slice * stride + offset + i];
        out[i] += sum;
    }
}

// partial[block] = Σ x² over the block's share, in double.
template <typename T>
static __device__ void sum_squares(unsigned n, const T* x, double* partial) {
    __shared__ double sums[BLOCK];
    double sum = 0.0;
    FOR_EACH(i, n) sum += (double)load(x + i) * (double)load(x + i);
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void square_sums(unsigned n, const act* x, double* partial) { sum_squares(n, x, partial); }

extern "C" __global__ void square_sums_floats(unsigned n, const float* x, double* partial) {
    sum_squares(n, x, partial);
}
