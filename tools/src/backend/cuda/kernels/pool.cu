// Pools. `above` and `left` are the rows and columns before the map at which the first window begins; what of a window
// lies outside the map is not there.

// What one window holds of one channel.
struct Pooled {
    float sum, largest;
    unsigned seen, at;  // pixels in the map; which of them is the largest, the first of equals
};

// `x` points to the channel in the first pixel of the sample.
static __device__ Pooled look(unsigned height, unsigned width, unsigned channels, unsigned rows, unsigned columns,
                              unsigned top, unsigned start, unsigned above, unsigned left, const act* x) {
    Pooled pooled = {0.0f, 0.0f, 0, 0};
    for (unsigned ky = 0; ky < rows; ky++) {
        for (unsigned kx = 0; kx < columns; kx++) {
            // Above or left of the map they wrap to large numbers.
            unsigned row = top + ky - above, col = start + kx - left;
            if (row >= height || col >= width) continue;
            unsigned pixel = row * width + col;
            float value = load(x + pixel * channels);
            if (pooled.seen == 0 || value > pooled.largest) {
                pooled.largest = value;
                pooled.at = pixel;
            }
            pooled.sum += value;
            pooled.seen++;
        }
    }
    return pooled;
}

// n counts the output.
extern "C" __global__ void pool(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned rows,
                                unsigned columns, unsigned stride, unsigned above, unsigned left, unsigned out_h,
                                unsigned out_w, unsigned mean, const act* x, act* out) {
    FOR_EACH(i, n) {
        unsigned c = i % channels, place = i / channels;
        unsigned start = place % out_w * stride, top = place / out_w % out_h * stride, sample = place / (out_w * out_h);
        Pooled pooled = look(height, width, channels, rows, columns, top, start, above, left,
                             x + sample * height * width * channels + c);
        store(out + i, mean ? pooled.sum / pooled.seen : pooled.largest);
    }
}

// Its gradient: what each window that sees a pixel gives it; n counts the input.
extern "C" __global__ void pool_grad(unsigned n, unsigned height, unsigned width, unsigned channels, unsigned rows,
                                     unsigned columns, unsigned stride, unsigned above, unsigned left, unsigned out_h,
                                     unsigned out_w, unsigned mean, const act* x, const act* grad, act* out) {
    FOR_EACH(i, n) {
        unsigned c = i % channels, pixel = i / channels;
        unsigned col = pixel % width, row = pixel / width % height, sample = pixel / (width * height);
        const act* map = x + sample * height * width * channels + c;
        float sum = 0.0f;
        for_places(row, col, rows, columns, stride, above, left, out_h, out_w, [&](unsigned, unsigned place) {
            Pooled pooled = look(height, width, channels, rows, columns, place / out_w * stride,
                                 place % out_w * stride, above, left, map);
            float share = mean ? 1.0f / pooled.seen : pooled.at == row * width + col ? 1.0f : 0.0f;
            sum += share * load(grad + (sample * out_h * out_w + place) * channels + c);
        });
        store(out + i, sum);
    }
}
