// Vector quantization.

// codes[row] is the entry of least ½‖e‖² − z·e, the first of equals: products [rows, entries] are the z·e.
// A warp does one row.
extern "C" __global__ void nearest(unsigned rows, unsigned entries, const float* products, const float* half_norms,
                                   unsigned* codes) {
    unsigned lane = threadIdx.x & 31, row = blockIdx.x * (BLOCK / 32) + (threadIdx.x >> 5);
    if (row >= rows) return;
    const float* product = products + row * entries;
    float least = half_norms[0] - product[0];
    unsigned code = 0;
    for (unsigned e = lane; e < entries; e += 32) {
        float score = half_norms[e] - product[e];
        if (score < least || (score == least && e < code)) {
            least = score;
            code = e;
        }
    }
    for (int offset = 16; offset > 0; offset >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, least, offset);
        unsigned other_code = __shfl_xor_sync(0xffffffffu, code, offset);
        if (other < least || (other == least && other_code < code)) {
            least = other;
            code = other_code;
        }
    }
    if (lane == 0) codes[row] = code;
}
