/* Memory that is refused: refusals MODEL_DIR [STRIDE]
 * Opens, draws and closes again and again, each time with another allocation refused, of STRIDE one: that one alone, and
 * then all from it on. Each time the function at work must say so and hand out nothing, it must work when it is called
 * again, the picture must be the same, and all memory must have come back. */
#define _POSIX_C_SOURCE 200112L
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long allocations, refused_at = -1; /* counted from 0; -1: none */
static int persistent;
static unsigned long refusals, live;

static int refuse(void) {
    long this = allocations++;
    int refused = refused_at >= 0 && (persistent ? this >= refused_at : this == refused_at);
    refusals += (unsigned long)refused;
    return refused;
}

static void *take(size_t size, size_t alignment, void *user) {
    void *block = NULL;
    (void)user;
    if (refuse() || posix_memalign(&block, alignment < sizeof block ? sizeof block : alignment, size) != 0) {
        return NULL;
    }
    live += size;
    return block;
}

static void give(void *block, size_t size, size_t alignment, void *user) {
    (void)alignment;
    (void)user;
    live -= size;
    free(block);
}

static void *change(void *block, size_t old_size, size_t new_size, size_t alignment, void *user) {
    void *moved = take(new_size, alignment, user);
    if (moved != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        give(block, old_size, alignment, user);
    }
    return moved;
}

static void fail(const char *what, rissole_status status, const rissole_error *error) {
    fprintf(stderr, "allocation %ld refused%s: %s: %s: %s\n", refused_at, persistent ? " and all after it" : "", what,
            rissole_status_string((int32_t)status), error->message);
    exit(1);
}

/* What a call answered, whose result is or is not there: it must have worked unless it was refused something, and works
 * the second time. True: call again. */
static int again(const char *what, rissole_status status, int handed_out, unsigned long before, rissole_error *error) {
    rissole_status expected = refusals == before ? RISSOLE_STATUS_OK : RISSOLE_STATUS_MEMORY;
    if (status != expected || handed_out != (status == RISSOLE_STATUS_OK)) {
        fail(what, status, error);
    }
    refused_at = status == RISSOLE_STATUS_OK ? refused_at : -1;
    return status != RISSOLE_STATUS_OK;
}

/* Opens, draws into `pixels` where `draw` says so or drawing is what comes to the refusal, and closes. True: it drew. */
static int run(const char *path, int draw, uint8_t *pixels, uint64_t bytes) {
    rissole_image image = {.struct_size = sizeof image, .format = RISSOLE_PIXEL_FORMAT_RGB8, .bytes = bytes,
                           .pixels = pixels};
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_request request;
    rissole_error error;
    rissole_status status;
    unsigned long before;

    rissole_options_init(&options);
    options.steps = 1;
    rissole_request_init(&request);
    request.seed = 7;
    do {
        before = refusals;
        status = rissole_model_open(path, &model, &error);
    } while (again("model_open", status, model != NULL, before, &error));
    do {
        before = refusals;
        status = rissole_generator_open(model, &options, &generator, &error);
    } while (again("generator_open", status, generator != NULL, before, &error));
    draw |= refused_at >= allocations;
    if (draw) {
        memset(pixels, 0, bytes);
        do {
            int i, written = 0;
            before = refusals;
            status = rissole_generate(generator, &request, &image, NULL, &error);
            for (i = 0; i < (int)bytes; i++) {
                written |= pixels[i];
            }
            status = again("generate", status, written != 0, before, &error) ? RISSOLE_STATUS_MEMORY : status;
        } while (status != RISSOLE_STATUS_OK);
    }
    rissole_generator_close(generator);
    rissole_model_close(model);
    return draw;
}

int main(int argc, char **argv) {
    static uint8_t expected[64 * 64 * 3], pixels[sizeof expected];
    rissole_memory memory = {.struct_size = sizeof memory, .alloc = take, .realloc = change, .free = give};
    long stride = argc > 2 ? atol(argv[2]) : 1, total, n;
    unsigned long before;

    if (argc < 2 || stride < 1) {
        fprintf(stderr, "usage: %s MODEL_DIR [STRIDE]\n", argv[0]);
        return 2;
    }
    if (rissole_set_memory(&memory, NULL) != RISSOLE_STATUS_OK) {
        return 1;
    }
    /* The first call leaves behind what lives as long as the program. */
    run(argv[1], 1, expected, sizeof expected);
    allocations = 0;
    before = live;
    run(argv[1], 1, expected, sizeof expected);
    total = allocations;
    for (n = 0; n < 2 * total; n += stride) {
        int drew;
        rissole_error none = {.message = "memory did not come back, or another picture"};
        persistent = n >= total;
        refused_at = n % total;
        allocations = 0;
        drew = run(argv[1], n % 32 == 0, pixels, sizeof pixels);
        if (live != before || (drew && memcmp(pixels, expected, sizeof pixels) != 0)) {
            fail("afterwards", RISSOLE_STATUS_INTERNAL, &none);
        }
    }
    printf("%ld allocations, %lu refusals, every one told\n", total, refusals);
    return refusals >= 2 * (unsigned long)(total / stride) ? 0 : 1;
}
