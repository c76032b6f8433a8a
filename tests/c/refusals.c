/* Memory that is refused: refusals MODEL_DIR [STRIDE [THREADS]]
 * Opens, draws and closes again and again, each time with another allocation refused, of STRIDE one: that one alone, and
 * then all from it on. Each time the function at work must say so and hand out nothing, it must work when it is called
 * again, the picture must be the same, and all memory must have come back. With more than one of THREADS, two threads do
 * so at once, each with a generator of so many: which of their calls are told is then not known beforehand. */
#define _POSIX_C_SOURCE 200112L
#include <pthread.h>
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static long allocations, refused_at = -1; /* counted from 0; -1: none */
static int persistent;
static unsigned long refusals, live;
static unsigned long round_began; /* refusals then */

static uint32_t threads = 1;
static const char *path;

static int refuse(void) {
    long this;
    int refused;
    pthread_mutex_lock(&lock);
    this = allocations++;
    refused = refused_at >= 0 && (persistent ? this >= refused_at : this == refused_at);
    refusals += (unsigned long)refused;
    pthread_mutex_unlock(&lock);
    return refused;
}

static unsigned long refused_until_now(void) {
    unsigned long count;
    pthread_mutex_lock(&lock);
    count = refusals;
    pthread_mutex_unlock(&lock);
    return count;
}

static void count_live(size_t more, size_t less) {
    pthread_mutex_lock(&lock);
    live += more;
    live -= less;
    pthread_mutex_unlock(&lock);
}

static void *take(size_t size, size_t alignment, void *user) {
    void *block = NULL;
    (void)user;
    if (refuse() || posix_memalign(&block, alignment < sizeof block ? sizeof block : alignment, size) != 0) {
        return NULL;
    }
    count_live(size, 0);
    return block;
}

static void give(void *block, size_t size, size_t alignment, void *user) {
    (void)alignment;
    (void)user;
    count_live(0, size);
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
    /* A refusal is told to every call that is at work while the library notices, which is a moment after this program
     * counted it; and it may fall before a call began. */
    int ok = status == RISSOLE_STATUS_OK, refused = refused_until_now() != (threads > 1 ? round_began : before);
    if ((!ok && (status != RISSOLE_STATUS_MEMORY || !refused)) || (ok && refused && threads == 1) || handed_out != ok) {
        fail(what, status, error);
    }
    if (!ok) {
        pthread_mutex_lock(&lock);
        refused_at = -1;
        pthread_mutex_unlock(&lock);
    }
    return !ok;
}

/* A picture, drawn where `drawn` says so or drawing is what comes to the refusal. */
typedef struct {
    int drawn;
    uint8_t pixels[64 * 64 * 3];
} picture;

/* Opens, draws, and closes. */
static void *run(void *to) {
    picture *out = to;
    rissole_image image = {.struct_size = sizeof image, .format = RISSOLE_PIXEL_FORMAT_RGB8, .bytes = sizeof out->pixels,
                           .pixels = out->pixels};
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_request request;
    rissole_error error;
    rissole_status status;
    unsigned long before;

    rissole_options_init(&options);
    options.steps = 1;
    options.threads = threads;
    rissole_request_init(&request);
    request.seed = 7;
    do {
        before = refused_until_now();
        status = rissole_model_open(path, &model, &error);
    } while (again("model_open", status, model != NULL, before, &error));
    do {
        before = refused_until_now();
        status = rissole_generator_open(model, &options, &generator, &error);
    } while (again("generator_open", status, generator != NULL, before, &error));
    pthread_mutex_lock(&lock);
    out->drawn |= refused_at >= allocations;
    pthread_mutex_unlock(&lock);
    if (out->drawn) {
        int i, written;
        memset(out->pixels, 0, sizeof out->pixels);
        do {
            written = 0;
            before = refused_until_now();
            status = rissole_generate(generator, &request, &image, NULL, &error);
            for (i = 0; i < (int)sizeof out->pixels; i++) {
                written |= out->pixels[i];
            }
        } while (again("generate", status, written != 0, before, &error));
    }
    rissole_generator_close(generator);
    rissole_model_close(model);
    return NULL;
}

/* As many pictures at once as there are. */
static void run_each(picture *pictures, int count) {
    pthread_t others[2];
    int i;
    for (i = 1; i < count; i++) {
        if (pthread_create(&others[i], NULL, run, &pictures[i]) != 0) {
            exit(1);
        }
    }
    run(&pictures[0]);
    for (i = 1; i < count; i++) {
        pthread_join(others[i], NULL);
    }
}

int main(int argc, char **argv) {
    static picture expected, pictures[2];
    rissole_memory memory = {.struct_size = sizeof memory, .alloc = take, .realloc = change, .free = give};
    long stride = argc > 2 ? atol(argv[2]) : 1, total, n;
    int i, count;
    unsigned long before, enough;

    threads = argc > 3 ? (uint32_t)atoi(argv[3]) : 1;
    if (argc < 2 || stride < 1 || threads < 1) {
        fprintf(stderr, "usage: %s MODEL_DIR [STRIDE [THREADS]]\n", argv[0]);
        return 2;
    }
    path = argv[1];
    count = threads > 1 ? 2 : 1;
    if (rissole_set_memory(&memory, NULL) != RISSOLE_STATUS_OK) {
        return 1;
    }
    /* The first call leaves behind what lives as long as the program. */
    expected.drawn = 1;
    run(&expected);
    allocations = 0;
    before = live;
    pictures[0].drawn = pictures[1].drawn = 1;
    run_each(pictures, count);
    total = allocations;
    for (n = 0; n < 2 * total; n += stride) {
        rissole_error none = {.message = "memory did not come back, or another picture"};
        persistent = n >= total;
        refused_at = n % total;
        allocations = 0;
        round_began = refusals;
        pictures[0].drawn = pictures[1].drawn = n % 32 == 0;
        run_each(pictures, count);
        for (i = 0; i < count; i++) {
            if (live != before || (pictures[i].drawn && memcmp(pictures[i].pixels, expected.pixels, sizeof expected.pixels) != 0)) {
                fail("afterwards", RISSOLE_STATUS_INTERNAL, &none);
            }
        }
    }
    /* With several threads an allocation more or less is made, so the last ones may be none. */
    enough = 2 * (unsigned long)(total / stride);
    printf("%ld allocations, %lu refusals, every one told\n", total, refusals);
    return refusals >= (threads > 1 ? enough / 2 : enough) ? 0 : 1;
}
