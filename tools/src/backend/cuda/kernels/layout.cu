// Rearrangements of pixels and channels. One thread writes one element, so none is written twice.

// Channels of a (ca of them), then of b, for each pixel; n is pixels · (ca + cb).
extern "C" __global__ void concat(unsigned n, unsigned ca, unsigned cb, const act* a, const act* b, act* out) {
    FOR_EACH(i, n) {
        unsigned row = i / (ca + cb), c = i % (ca + cb);
        store(out + i, c < ca ? load(a + row * ca + c) : load(b + row * cb + (c - ca)));
    }
}

// The inverse of concat.
extern "C" __global__ void split(unsigned n, unsigned ca, unsigned cb, const act* x, act* a, act* b) {
    FOR_EACH(i, n) {
        unsigned row = i / (ca + cb), c = i % (ca + cb);
        if (c < ca) store(a + row * ca + c, load(x + i));
        else store(b + row * cb + (c - ca), load(x + i));
    }
}

// Nearest upsampling by 2 of rows of `width` pixels; n counts the output. Rows of all samples follow each other.
extern "C" __global__ void upsample(unsigned n, unsigned width, unsigned channels, const act* x, act* out) {
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % (2 * width), row = pixel / (2 * width);
        store(out + i, load(x + ((row / 2) * width + col / 2) * channels + c));
    }
}

// Sums of 2×2 pixels; n counts the output, rows of `width` pixels.
extern "C" __global__ void upsample_grad(unsigned n, unsigned width, unsigned channels, const act* grad, act* out) {
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % width, row = pixel / width;
        const act* top = grad + (2 * row * 2 * width + 2 * col) * channels + c;
        const act* bottom = top + 2 * width * channels;
        store(out + i, load(top) + load(top + channels) + load(bottom) + load(bottom + channels));
    }
}

// Where channel `c` of `channels` of deep pixel `pixel` stands in the wide array.
static __device__ __forceinline__ unsigned wide_index(unsigned pixel, unsigned c, unsigned width, unsigned channels) {
    unsigned quarter = channels / 4, part = c / quarter;
    unsigned row = 2 * (pixel / width) + part / 2, col = 2 * (pixel % width) + part % 2;
    return (row * 2 * width + col) * quarter + c % quarter;
}

// [N,H,W,4C] → [N,2H,2W,C]; n counts elements, `width` and `channels` are the input's.
extern "C" __global__ void depth_to_space(unsigned n, unsigned width, unsigned channels, const act* x, act* out) {
    FOR_EACH(i, n) store(out + wide_index(i / channels, i % channels, width, channels), load(x + i));
}

// The inverse of depth_to_space; `width` and `channels` are the output's.
extern "C" __global__ void space_to_depth(unsigned n, unsigned width, unsigned channels, const act* grad, act* out) {
    FOR_EACH(i, n) store(out + i, load(grad + wide_index(i / channels, i % channels, width, channels)));
}

// Drops `margin` pixels on each side of height × width; n counts the output.
extern "C" __global__ void crop(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned margin,
                                const act* x, act* out) {
    unsigned inner_h = height - 2 * margin, inner_w = width - 2 * margin;
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % inner_w + margin, row = pixel / inner_w % inner_h + margin;
        unsigned sample = pixel / (inner_w * inner_h);
        store(out + i, load(x + ((sample * height + row) * width + col) * channels + c));
    }
}

// Its gradient, zeros around; n counts the output, height × width.
extern "C" __global__ void crop_grad(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned margin,
                                     const act* grad, act* out) {
    unsigned inner_h = height - 2 * margin, inner_w = width - 2 * margin;
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % width - margin, row = pixel / width % height - margin;
        unsigned sample = pixel / (width * height);
        bool inside = col < inner_w && row < inner_h;  // below the margin they wrap to large numbers
        store(out + i, inside ? load(grad + ((sample * inner_h + row) * inner_w + col) * channels + c) : 0.0f);
    }
}
