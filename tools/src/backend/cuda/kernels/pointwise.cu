// Elementwise operations.

extern "C" __global__ void silu(unsigned n, const act* x, act* out) {
    FOR_EACH(i, n) {
        float v = load(x + i);
        store(out + i, v * sigmoid(v));
    }
}

extern "C" __global__ void silu_grad(unsigned n, const act* x, const act* grad, act* out) {
    FOR_EACH(i, n) store(out + i, load(grad + i) * silu_slope(load(x + i)));
}

extern "C" __global__ void leaky_relu(unsigned n, float slope, const act* x, act* out) {
    FOR_EACH(i, n) {
        float v = load(x + i);
        store(out + i, v > 0.0f ? v : slope * v);
    }
}

extern "C" __global__ void leaky_relu_grad(unsigned n, float slope, const act* x, const act* grad, act* out) {
    FOR_EACH(i, n) {
        float g = load(grad + i);
        store(out + i, load(x + i) > 0.0f ? g : slope * g);
    }
}

// A permutation of 32 bits (Wellons 2018, lowbias32).
static __device__ __forceinline__ unsigned mix(unsigned x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// scale · x where the hash of the seed (two numbers), of the mask's number and of first + i is at least the threshold,
// else 0.
extern "C" __global__ void dropout(unsigned n, unsigned number, unsigned first, unsigned threshold, float scale,
                                   const float* seed, const act* x, act* out) {
    unsigned key = mix(mix((unsigned)seed[0] ^ mix(number)) ^ (unsigned)seed[1]);
    FOR_EACH(i, n) store(out + i, mix(mix(first + i) ^ key) >= threshold ? scale * load(x + i) : 0.0f);
}

extern "C" __global__ void add(unsigned n, const act* a, const act* b, act* out) {
    FOR_EACH(i, n) store(out + i, load(a + i) + load(b + i));
}

extern "C" __global__ void accumulate(unsigned n, const act* from, act* to) {
    FOR_EACH(i, n) store(to + i, load(to + i) + load(from + i));
}

extern "C" __global__ void accumulate_floats(unsigned n, const float* from, float* to) {
    FOR_EACH(i, n) to[i] += from[i];
}

extern "C" __global__ void fill(unsigned n, float value, act* to) {
    FOR_EACH(i, n) store(to + i, value);
}

extern "C" __global__ void affine(unsigned n, float factor, float summand, const act* x, act* out) {
    FOR_EACH(i, n) store(out + i, factor * load(x + i) + summand);
}

// to += scale[0] · x
extern "C" __global__ void add_scaled(unsigned n, const float* scale, const act* x, act* to) {
    float by = scale[0];
    FOR_EACH(i, n) store(to + i, load(to + i) + by * load(x + i));
}

// out[n,p,c] = x[n,p,c] + v[n,c]; `sample` is pixels · channels.
extern "C" __global__ void add_vector(unsigned n, unsigned sample, unsigned channels, const act* x, const act* v,
                                      act* out) {
    FOR_EACH(i, n) {
        float add = load(v + i / sample * channels + i % channels);
        store(out + i, load(x + i) + add);
    }
}

// out[n,c] = Σ_p grad[n,p,c]; n is batch · channels.
extern "C" __global__ void sum_pixels(unsigned n, unsigned pixels, unsigned channels, const act* grad, act* out) {
    FOR_EACH(i, n) {
        const act* from = grad + i / channels * pixels * channels + i % channels;
        float sum = 0.0f;
        for (unsigned p = 0; p < pixels; p++) sum += load(from + p * channels);
        store(out + i, sum);
    }
}

// Cosines then sines of t · 10000^(−i/(dim/2)); n is batch · dim/2.
extern "C" __global__ void sinusoid(unsigned n, unsigned half, const float* t, act* out) {
    const float log_base = 9.210340371976184f;  // ln 10000
    FOR_EACH(i, n) {
        unsigned sample = i / half, at = i % half;
        float angle = t[sample] * expf(-log_base * (float)at / (float)half);
        store(out + sample * 2 * half + at, cosf(angle));
        store(out + sample * 2 * half + half + at, sinf(angle));
    }
}

// Values into the columns from `column` on of the row of the log that row[0] names; n counts them.
extern "C" __global__ void note(unsigned n, unsigned column, unsigned columns, const float* values, const float* row,
                                float* log) {
    FOR_EACH(i, n) log[(unsigned)row[0] * columns + column + i] = values[i];
}
