// Windows of latents: `backend/cpu/windows.rs` element by element. Arrays of a window are [N, cells, channels].

// As `Subject::words`.
struct Subject {
    float image, position, timestep, alpha, sigma, weight, without_neighbours, thumbnail_deviation, key_a, key_b;

    __device__ __forceinline__ float noise(unsigned stream, unsigned i) const {
        return normal(i, stream, (unsigned)key_a, (unsigned)key_b);
    }
};

#define OUTSIDE 0xffffffffu
#define WINDOW_NOISE 0
#define THUMBNAIL_NOISE 1
#define NEIGHBOUR_NOISE 2

// As `Layout::levels`: cells of the latent under one of the level's, where those of its first are in `under`, and where that
// over it is in `over`.
struct Level {
    unsigned share, under, over, is_thumbnail;
};

// A picture's values: codes [N, latent_cells] of a codebook [K, channels].
struct Codes {
    unsigned latent_cells, channels;
    const unsigned short* codes;
    const float* codebook;

    __device__ __forceinline__ float value(unsigned image, unsigned cell, unsigned channel) const {
        return codebook[codes[image * latent_cells + cell] * channels + channel];
    }

    // The average of the latent's cells under a cell of a level.
    __device__ __forceinline__ float value(const Level& level, const unsigned* under, unsigned image, unsigned cell,
                                           unsigned channel) const {
        if (level.share == 1) return value(image, cell, channel);
        float share = 1.0f / (float)level.share, sum = 0.0f;
        const unsigned* below = under + level.under + cell * level.share;
        for (unsigned i = 0; i < level.share; i++) sum += share * value(image, below[i], channel);
        return sum;
    }
};

// Noisy values, gathered and noised in one pass; with `flag` a last channel says whether a cell is within the picture.
extern "C" __global__ void draw_noisy(unsigned n, unsigned cells, unsigned channels, unsigned flag,
                                      unsigned latent_cells, const Subject* subjects, const unsigned* window,
                                      const unsigned* level_of, const Level* levels, const unsigned* under,
                                      const unsigned short* codes, const float* codebook, act* out) {
    Codes latents = {latent_cells, channels, codes, codebook};
    unsigned row = channels + flag;
    FOR_EACH(i, n) {
        unsigned channel = i % row, place = i / row % cells;
        const Subject& s = subjects[i / row / cells];
        unsigned cell = window[(unsigned)s.position * cells + place];
        float value = cell == OUTSIDE ? 0.0f : 1.0f;
        if (cell != OUTSIDE && channel < channels) {
            const Level& here = levels[level_of[(unsigned)s.position]];
            value = s.alpha * latents.value(here, under, (unsigned)s.image, cell, channel) +
                    s.sigma * s.noise(WINDOW_NOISE, place * channels + channel);
        }
        store(out + i, value);
    }
}

// What is to be predicted of a block: its noise, or v = α·noise − σ·clean. `own` are the block's places in the window.
extern "C" __global__ void draw_target(unsigned n, unsigned block_cells, unsigned cells, unsigned channels, unsigned v,
                                       unsigned latent_cells, const Subject* subjects, const unsigned* window,
                                       const unsigned* own, const unsigned* level_of, const Level* levels,
                                       const unsigned* under, const unsigned short* codes, const float* codebook,
                                       float* out) {
    Codes latents = {latent_cells, channels, codes, codebook};
    FOR_EACH(i, n) {
        unsigned channel = i % channels, place = own[i / channels % block_cells];
        const Subject& s = subjects[i / channels / block_cells];
        float value = s.noise(WINDOW_NOISE, place * channels + channel);
        if (v) {
            unsigned cell = window[(unsigned)s.position * cells + place];
            const Level& here = levels[level_of[(unsigned)s.position]];
            value = s.alpha * value - s.sigma * latents.value(here, under, (unsigned)s.image, cell, channel);
        }
        out[i] = value;
    }
}

// The same windows of the k neighbours, channels after channels; thumbnails have codes of their own.
extern "C" __global__ void draw_neighbours(unsigned n, unsigned cells, unsigned channels, unsigned k,
                                           unsigned latent_cells, unsigned block_cells, const Subject* subjects,
                                           const unsigned* window, const unsigned* level_of, const Level* levels,
                                           const unsigned* under, const unsigned* neighbours,
                                           const unsigned short* codes, const float* codebook,
                                           const unsigned short* thumbnail_codes, const float* thumbnail_codebook,
                                           act* out) {
    Codes latents = {latent_cells, channels, codes, codebook};
    Codes thumbnails = {block_cells, channels, thumbnail_codes, thumbnail_codebook};
    unsigned row = k * channels;
    FOR_EACH(i, n) {
        unsigned channel = i % channels, rank = i % row / channels, place = i / row % cells;
        const Subject& s = subjects[i / row / cells];
        unsigned cell = window[(unsigned)s.position * cells + place];
        float value = 0.0f;
        if (cell != OUTSIDE && s.without_neighbours == 0.0f) {
            unsigned neighbour = neighbours[(unsigned)s.image * k + rank];
            const Level& here = levels[level_of[(unsigned)s.position]];
            value = here.is_thumbnail ? thumbnails.value(neighbour, cell, channel)
                                      : latents.value(here, under, neighbour, cell, channel);
        }
        store(out + i, value);
    }
}

// Noise in place of neighbours; `row` is the channels of a cell.
extern "C" __global__ void draw_neighbour_noise(unsigned n, unsigned cells, unsigned row, const Subject* subjects,
                                                const unsigned* window, act* out) {
    FOR_EACH(i, n) {
        const Subject& s = subjects[i / row / cells];
        unsigned cell = window[(unsigned)s.position * cells + i / row % cells];
        store(out + i, cell == OUTSIDE ? 0.0f : s.noise(NEIGHBOUR_NOISE, i % (row * cells)));
    }
}

// The next coarser level over a block's window, with noise; zeros for the coarsest.
extern "C" __global__ void draw_thumbnail(unsigned n, unsigned cells, unsigned channels, unsigned latent_cells,
                                          const Subject* subjects, const unsigned* window, const unsigned* level_of,
                                          const Level* levels, const unsigned* under, const unsigned* over,
                                          const unsigned short* codes, const float* codebook, act* out) {
    Codes latents = {latent_cells, channels, codes, codebook};
    FOR_EACH(i, n) {
        unsigned channel = i % channels, place = i / channels % cells;
        const Subject& s = subjects[i / channels / cells];
        unsigned cell = window[(unsigned)s.position * cells + place];
        unsigned here = level_of[(unsigned)s.position];
        float value = 0.0f;
        if (cell != OUTSIDE && here > 0) {
            unsigned above = over[levels[here].over + cell];
            value = latents.value(levels[here - 1], under, (unsigned)s.image, above, channel) +
                    s.thumbnail_deviation * s.noise(THUMBNAIL_NOISE, above * channels + channel);
        }
        store(out + i, value);
    }
}

// The block drawn before, whose position `before` tells for each position, OUTSIDE where there is none.
extern "C" __global__ void draw_previous(unsigned n, unsigned cells, unsigned channels, unsigned latent_cells,
                                         const Subject* subjects, const unsigned* window, const unsigned* before,
                                         const unsigned short* codes, const float* codebook, act* out) {
    Codes latents = {latent_cells, channels, codes, codebook};
    FOR_EACH(i, n) {
        unsigned channel = i % channels, place = i / channels % cells;
        const Subject& s = subjects[i / channels / cells];
        unsigned position = before[(unsigned)s.position];
        unsigned cell = position == OUTSIDE ? OUTSIDE : window[position * cells + place];
        store(out + i, cell == OUTSIDE ? 0.0f : latents.value((unsigned)s.image, cell, channel));
    }
}

// Timesteps, weights and one-hot positions; n counts the last.
extern "C" __global__ void draw_scalars(unsigned n, unsigned positions, const Subject* subjects, float* timesteps,
                                        float* weights, act* one_hot) {
    FOR_EACH(i, n) {
        const Subject& s = subjects[i / positions];
        store(one_hot + i, (unsigned)s.position == i % positions ? 1.0f : 0.0f);
        if (i % positions == 0) {
            timesteps[i / positions] = s.timestep;
            weights[i / positions] = s.weight;
        }
    }
}

// to[i] += weights[sample] · (a[i] − b[i]); `sample` is the values of one sample.
extern "C" __global__ void add_difference(unsigned n, unsigned sample, const float* weights, const act* a,
                                          const float* b, float* to) {
    FOR_EACH(i, n) to[i] += weights[i / sample] * (load(a + i) - b[i]);
}
