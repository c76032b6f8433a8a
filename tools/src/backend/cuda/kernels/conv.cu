// Convolution as matrix products over patches. Zero padding is kernel / 2.

// Patches of x [N,height,width,channels]: out[(n,y,x), (ky,kx,c)] for every output pixel; n counts elements.
extern "C" __global__ void patches(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned kernel,
                                   unsigned stride, unsigned out_h, unsigned out_w, const act* x, act* out) {
    unsigned depth = kernel * kernel * channels, pad = kernel / 2;
    FOR_EACH(i, n) {
        unsigned k = i % depth, pixel = i / depth;
        unsigned c = k % channels, tap = k / channels;
        // Above or left of the picture they wrap to large numbers.
        unsigned row = pixel / out_w % out_h * stride + tap / kernel - pad;
        unsigned col = pixel % out_w * stride + tap % kernel - pad;
        unsigned sample = pixel / (out_w * out_h);
        bool inside = row < height && col < width;
        store(out + i, inside ? load(x + ((sample * height + row) * width + col) * channels + c) : 0.0f);
    }
}

// The adjoint of patches: out[n,y,x,c] is the sum of all places where that pixel stands in grad, tap by tap;
// n counts elements of out.
extern "C" __global__ void patches_grad(unsigned n, unsigned height, unsigned width, unsigned channels,
                                        unsigned kernel, unsigned stride, unsigned out_h, unsigned out_w,
                                        const act* grad, act* out) {
    unsigned depth = kernel * kernel * channels, pad = kernel / 2;
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % width, row = pixel / width % height, sample = pixel / (width * height);
        float sum = 0.0f;
        for (unsigned ky = 0; ky < kernel; ky++) {
            unsigned down = row + pad - ky;
            if (row + pad < ky || down % stride != 0 || down / stride >= out_h) continue;
            for (unsigned kx = 0; kx < kernel; kx++) {
                unsigned right = col + pad - kx;
                if (col + pad < kx || right % stride != 0 || right / stride >= out_w) continue;
                unsigned patch = (sample * out_h + down / stride) * out_w + right / stride;
                sum += load(grad + patch * depth + (ky * kernel + kx) * channels + c);
            }
        }
        store(out + i, sum);
    }
}

// out[row, :] += bias; n counts elements.
extern "C" __global__ void add_bias(unsigned n, unsigned columns, const float* bias, act* out) {
    FOR_EACH(i, n) store(out + i, load(out + i) + bias[i % columns]);
}
