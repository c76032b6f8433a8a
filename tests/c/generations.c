/* One generator for very long: generations MODEL_DIR [COUNT]
 * Draws COUNT pictures (10,000) of ten seeds in turn. The same seed must give the same pixels, and neither the heap nor the
 * memory that the system says the process has of its own may grow. */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEDS = 10, PIXELS = 64 * 64 * 3, PAGES = 4 };

/* Resident pages of the process that are its own: pages of mapped files come and go as the system likes. */
static long resident(void) {
    long all = 0, here = 0, shared = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    int found = file != NULL && fscanf(file, "%ld %ld %ld", &all, &here, &shared) == 3;
    if (file != NULL) {
        fclose(file);
    }
    return found ? here - shared : -1;
}

int main(int argc, char **argv) {
    static uint8_t expected[SEEDS][PIXELS], pixels[PIXELS];
    long count = argc > 2 ? atol(argv[2]) : 10000, i, pages = 0, pages_now;
    uint64_t live = 0, peak = 0, live_now = 0, peak_now = 0;
    rissole_image image;
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_request request;
    rissole_error error;

    if (argc < 2 || count <= 2 * SEEDS) {
        fprintf(stderr, "usage: %s MODEL_DIR [COUNT], more than %d\n", argv[0], 2 * SEEDS);
        return 2;
    }
    rissole_options_init(&options, sizeof options);
    options.steps = 1;
    rissole_request_init(&request, sizeof request);
    rissole_image_init(&image, sizeof image);
    image.pixels = pixels;
    image.bytes = sizeof pixels;
    if (rissole_model_open(argv[1], &model, &error) != RISSOLE_STATUS_OK ||
        rissole_generator_open(model, &options, &generator, &error) != RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    /* Looking takes memory the first time. */
    resident();
    for (i = 0; i < count; i++) {
        if (i == 2 * SEEDS) {
            rissole_heap(&live, &peak);
            pages = resident();
        }
        request.seed = (uint64_t)(i % SEEDS);
        if (rissole_generate(generator, &request, &image, NULL, &error) != RISSOLE_STATUS_OK) {
            fprintf(stderr, "picture %ld: %s\n", i, error.message);
            return 1;
        }
        if (i < SEEDS) {
            memcpy(expected[i], pixels, PIXELS);
        } else if (memcmp(expected[i % SEEDS], pixels, PIXELS) != 0) {
            fprintf(stderr, "picture %ld is another one\n", i);
            return 1;
        }
    }
    rissole_heap(&live_now, &peak_now);
    pages_now = resident();
    printf("%ld pictures; heap %lu bytes then, %lu now, at most %lu then, %lu now; own pages %ld then, %ld now\n", count,
           (unsigned long)live, (unsigned long)live_now, (unsigned long)peak, (unsigned long)peak_now, pages, pages_now);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return live == live_now && peak == peak_now && pages_now <= pages + PAGES ? 0 : 1;
}
