// Pictures and latents, cut out of those that lie on the device.

// As `Cut::words`.
struct Cut {
    float image, mirrored, top, left;
};

// Values in −1…1 of parts of out_height × out_width; n counts them.
extern "C" __global__ void cut_out(unsigned n, unsigned height, unsigned width, unsigned out_height,
                                   unsigned out_width, const Cut* cuts, const unsigned char* pixels, float* out) {
    FOR_EACH(i, n) {
        unsigned channel = i % 3, x = i / 3 % out_width, y = i / 3 / out_width % out_height;
        Cut cut = cuts[i / 3 / out_width / out_height];
        unsigned row = (unsigned)cut.top + y, column = (unsigned)cut.left + x;
        if (cut.mirrored != 0.0f) column = width - 1 - column;
        // Many pictures have more than 2³² bytes.
        unsigned long long pixel = ((unsigned long long)(unsigned)cut.image * height + row) * width + column;
        out[i] = (float)pixels[3 * pixel + channel] / 127.5f - 1.0f;
    }
}

// The entries that the codes of latents name, of parts of out_height × out_width cells; n counts their values.
extern "C" __global__ void cut_latents(unsigned n, unsigned height, unsigned width, unsigned channels,
                                       unsigned out_height, unsigned out_width, const Cut* cuts,
                                       const unsigned short* codes, const float* codebook, float* out) {
    FOR_EACH(i, n) {
        unsigned channel = i % channels, cell = i / channels, x = cell % out_width, y = cell / out_width % out_height;
        Cut cut = cuts[cell / out_width / out_height];
        unsigned row = (unsigned)cut.top + y, column = (unsigned)cut.left + x;
        if (cut.mirrored != 0.0f) column = width - 1 - column;
        unsigned long long at = ((unsigned long long)(unsigned)cut.image * height + row) * width + column;
        out[i] = codebook[codes[at] * channels + channel];
    }
}
