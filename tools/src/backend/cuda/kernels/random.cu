// Random numbers that any thread computes for itself, as `backend/philox.rs` does.

// Philox 4×32 with ten rounds (Salmon et al. 2011): the four numbers of the counter (i, stream, 0, 0).
static __device__ void philox(unsigned i, unsigned stream, unsigned key_a, unsigned key_b, unsigned* out) {
    unsigned c0 = i, c1 = stream, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xd2511f53ull * c0, p1 = 0xcd9e8d57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ key_a;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ key_b;
        c1 = (unsigned)p1;
        c3 = (unsigned)p0;
        key_a += 0x9e3779b9u;
        key_b += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// Standard normal value `i` of a stream (Box & Muller 1958).
static __device__ float normal(unsigned i, unsigned stream, unsigned key_a, unsigned key_b) {
    unsigned bits[4];
    philox(i / 4, stream, key_a, key_b, bits);
    const float unit = 1.0f / 16777216.0f;
    unsigned pair = i % 4 / 2 * 2;
    float radius = sqrtf(-2.0f * logf((float)((bits[pair] >> 8) + 1) * unit));
    float angle = 6.2831853071795865f * ((float)(bits[pair + 1] >> 8) * unit);
    return radius * (i % 2 == 0 ? cosf(angle) : sinf(angle));
}
