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

// ½‖e‖² of each entry; n counts them.
extern "C" __global__ void half_norms(unsigned n, unsigned channels, const float* entries, float* out) {
    FOR_EACH(i, n) {
        float sum = 0.0f;
        for (unsigned c = 0; c < channels; c++) sum += entries[i * channels + c] * entries[i * channels + c];
        out[i] = 0.5f * sum;
    }
}

// The entries that the codes name, and the codes as floats; n is rows · channels.
extern "C" __global__ void look_up(unsigned n, unsigned channels, const unsigned* codes, const float* entries,
                                   float* numbers, act* chosen) {
    FOR_EACH(i, n) {
        unsigned code = codes[i / channels];
        store(chosen + i, entries[code * channels + i % channels]);
        if (i % channels == 0) numbers[i / channels] = (float)code;
    }
}

// Sums of the rows that use an entry, in their order, and how many they are: sums [K, channels], counts [K]. A warp does
// one entry: it looks at 32 codes at a time, and its threads add a row's channels.
extern "C" __global__ void book_sums(unsigned entries, unsigned channels, unsigned rows, const act* values,
                                     const float* codes, float* sums, float* counts) {
    unsigned lane = threadIdx.x & 31, entry = blockIdx.x * (BLOCK / 32) + (threadIdx.x >> 5);
    if (entry >= entries) return;
    unsigned count = 0;
    for (unsigned first = 0; first < channels; first += 32) {
        unsigned c = first + lane;
        float sum = 0.0f;
        count = 0;
        for (unsigned row0 = 0; row0 < rows; row0 += 32) {
            unsigned row = row0 + lane;
            unsigned users = __ballot_sync(0xffffffffu, row < rows && (unsigned)codes[row] == entry);
            for (; users; users &= users - 1) {
                if (c < channels) sum += load(values + (row0 + __ffs(users) - 1) * channels + c);
                count++;
            }
        }
        if (c < channels) sums[entry * channels + c] = sum;
    }
    if (lane == 0) counts[entry] = (float)count;
}

// For each entry a row that follows from the key, of `of` shares of as many rows; zeros where it is not in share `part`. n
// counts values of entries.
extern "C" __global__ void book_rows(unsigned n, unsigned channels, unsigned rows, unsigned part, unsigned of,
                                     const float* key, const act* values, float* out) {
    FOR_EACH(i, n) {
        unsigned bits[4];
        philox(i / channels, 0, (unsigned)key[0], (unsigned)key[1], bits);
        unsigned row = (unsigned)(((unsigned long long)bits[0] * (of * rows)) >> 32) - part * rows;
        out[i] = row < rows ? load(values + row * channels + i % channels) : 0.0f;  // before the share it wraps
    }
}

// Moves the averages and the entries by `times` what is given; n counts entries. One that is used less than `dead` begins
// anew at its row.
extern "C" __global__ void move_book(unsigned n, unsigned channels, float decay, float dead, float times,
                                     const float* counts, const float* new_sums, const float* rows, float* entries,
                                     float* uses, float* sums) {
    FOR_EACH(i, n) {
        float use = decay * uses[i] + (1.0f - decay) * (times * counts[i]);
        bool begins = use < dead;
        if (begins) use = 1.0f;
        uses[i] = use;
        for (unsigned j = i * channels; j < (i + 1) * channels; j++) {
            float sum = begins ? times * rows[j] : decay * sums[j] + (1.0f - decay) * (times * new_sums[j]);
            sums[j] = sum;
            entries[j] = sum / use;
        }
    }
}
