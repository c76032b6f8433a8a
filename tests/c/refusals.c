/* Memory that is refused: refusals MODEL_DIR [STRIDE [THREADS [ROUTE]]]
 * Does what ROUTE says (see `routes`; by default opens a folder and draws) again and again, each time with another
 * allocation refused, of STRIDE one: that one alone, and then all from it on. Each time the function at work must say so
 * and hand out nothing, it must work when it is called again, the picture must be the same, and all memory must have come
 * back. With more than one of THREADS, two threads do so at once, each with a generator of so many: which of their calls
 * are told is then not known beforehand. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <pthread.h>
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the header says of stacks and alignment. */
enum { STACK = 1 << 20, MOST_ALIGNMENT = 64, SIDE = 64, PIXELS = SIDE * SIDE * 3, MOST_FILES = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static long allocations, refused_at = -1; /* counted from 0; -1: none */
static int persistent;
static unsigned long refusals, live;
static unsigned long round_began; /* refusals then */

static uint32_t threads = 1;
static const char *path;

/* The bundle's files, by name, in memory. */
static rissole_memory_file files[MOST_FILES];
static uint64_t file_count;

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
    if (alignment > MOST_ALIGNMENT) {
        fprintf(stderr, "an alignment of %lu is asked for\n", (unsigned long)alignment);
        exit(1);
    }
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

/* Calls until there is an answer other than RISSOLE_STATUS_MEMORY. `call` fills in `error`; `handed_out` says whether
 * there is what it gives. */
#define UNTIL_IT_WORKS(what, call, handed_out) \
    do { \
        before = refused_until_now(); \
        status = (call); \
    } while (again((what), status, (handed_out), before, &error))

static rissole_status open_folder(rissole_model **model, rissole_error *error) {
    return rissole_model_open(path, model, error);
}

static rissole_status open_memory(rissole_model **model, rissole_error *error) {
    return rissole_model_open_memory(files, file_count, model, error);
}

static const rissole_memory_file *find(const char *name) {
    uint64_t i;
    for (i = 0; i < file_count && strcmp(files[i].name, name) != 0; i++) {
    }
    return i < file_count ? &files[i] : NULL;
}

static int64_t file_size(const char *name, void *user) {
    const rissole_memory_file *file = find(name);
    (void)user;
    return file == NULL ? -1 : (int64_t)file->size;
}

static int64_t file_read(const char *name, uint64_t offset, void *buffer, uint64_t size, void *user) {
    const rissole_memory_file *file = find(name);
    (void)user;
    if (file == NULL || offset > file->size) {
        return -1;
    }
    size = size < file->size - offset ? size : file->size - offset;
    memcpy(buffer, (const uint8_t *)file->data + offset, (size_t)size);
    return (int64_t)size;
}

static rissole_status open_reader(rissole_model **model, rissole_error *error) {
    rissole_file_reader reader;
    rissole_file_reader_init(&reader, sizeof reader);
    reader.file_size = file_size;
    reader.file_read = file_read;
    return rissole_model_open_reader(&reader, model, error);
}

/* What is done each time: a model is opened, and then a picture drawn, but for `plans`. */
typedef struct {
    const char *name;
    rissole_status (*open)(rissole_model **model, rissole_error *error);
    int plans;    /* the model is verified and asked what a generator needs */
    int previews; /* a picture is looked at while it is drawn */
    int queries;  /* its query is a picture of the program */
} route;

static const route routes[] = {
    {"folder", open_folder, 0, 0, 0}, {"plan", open_folder, 1, 0, 0},     {"reader", open_reader, 0, 0, 0},
    {"memory", open_memory, 0, 0, 0}, {"preview", open_folder, 0, 1, 0}, {"query", open_folder, 0, 0, 1},
};
static const route *taken = &routes[0];

static int is_black(const uint8_t *pixels) {
    int i;
    for (i = 0; i < PIXELS && pixels[i] == 0; i++) {
    }
    return i == PIXELS;
}

/* Looks at the picture once it is half done. */
static int look(const rissole_progress *progress, void *user) {
    static uint8_t pixels[PIXELS];
    rissole_image image;
    rissole_error error;
    rissole_status status;
    unsigned long before = refused_until_now();
    (void)user;
    if (progress->preview == NULL || 2 * progress->done < progress->total) {
        return 0;
    }
    memset(pixels, 0, PIXELS);
    rissole_image_init(&image, sizeof image);
    image.pixels = pixels;
    image.bytes = PIXELS;
    status = rissole_preview_get_image(progress->preview, &image, &error);
    if (status != (refused_until_now() != before ? RISSOLE_STATUS_MEMORY : RISSOLE_STATUS_OK) ||
        is_black(pixels) != (status != RISSOLE_STATUS_OK)) {
        fail("preview_get_image", status, &error);
    }
    return 0;
}

/* A picture, drawn where `drawn` says so or drawing is what comes to the refusal. */
typedef struct {
    int drawn;
    uint8_t pixels[PIXELS];
} picture;

static void draw(rissole_generator *generator, picture *out) {
    static uint8_t query[PIXELS];
    rissole_request request;
    rissole_image image;
    rissole_error error;
    rissole_status status;
    unsigned long before;
    int i;

    rissole_request_init(&request, sizeof request);
    request.seed = 7;
    if (taken->queries) {
        for (i = 0; i < PIXELS; i++) {
            query[i] = (uint8_t)(i / SIDE);
        }
        request.query = RISSOLE_QUERY_KIND_PICTURE;
        request.pixels = query;
        request.width = request.height = SIDE;
    }
    rissole_image_init(&image, sizeof image);
    image.pixels = out->pixels;
    image.bytes = PIXELS;
    memset(out->pixels, 0, PIXELS);
    UNTIL_IT_WORKS("generate", rissole_generate(generator, &request, &image, NULL, &error), !is_black(out->pixels));
}

/* Goes the route, and closes what it opened. */
static void *run(void *to) {
    picture *out = to;
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_error error;
    rissole_status status;
    unsigned long before;
    uint64_t needs = 0;

    rissole_options_init(&options, sizeof options);
    options.steps = 1;
    options.threads = threads;
    UNTIL_IT_WORKS("model_open", taken->open(&model, &error), model != NULL);
    if (taken->plans) {
        UNTIL_IT_WORKS("model_verify", rissole_model_verify(model, &error), status == RISSOLE_STATUS_OK);
        UNTIL_IT_WORKS("plan", rissole_plan(model, &options, &needs, &error), needs != 0);
    } else {
        UNTIL_IT_WORKS("generator_open", rissole_generator_open(model, &options, &generator, &error), generator != NULL);
        if (taken->previews && rissole_generator_set_progress(generator, look, NULL, &error) != RISSOLE_STATUS_OK) {
            fail("set_progress", error.status, &error);
        }
        pthread_mutex_lock(&lock);
        out->drawn |= refused_at >= allocations;
        pthread_mutex_unlock(&lock);
        if (out->drawn) {
            draw(generator, out);
        }
    }
    rissole_generator_close(generator);
    rissole_model_close(model);
    return NULL;
}

/* As many pictures at once as there are. */
static void run_each(picture *pictures, int count) {
    pthread_t others[2];
    pthread_attr_t attributes;
    int i;
    if (pthread_attr_init(&attributes) != 0 || pthread_attr_setstacksize(&attributes, STACK) != 0) {
        exit(1);
    }
    for (i = 0; i < count; i++) {
        if (pthread_create(&others[i], &attributes, run, &pictures[i]) != 0) {
            exit(1);
        }
    }
    pthread_attr_destroy(&attributes);
    for (i = 0; i < count; i++) {
        pthread_join(others[i], NULL);
    }
}

/* Reads every file of the bundle. */
static int read_files(void) {
    DIR *folder = opendir(path);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL && file_count < MOST_FILES) {
        char full[1024];
        FILE *file;
        long size;
        void *data;
        if (entry->d_name[0] == '.' || snprintf(full, sizeof full, "%s/%s", path, entry->d_name) >= (int)sizeof full) {
            continue;
        }
        file = fopen(full, "rb");
        if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) <= 0 ||
            posix_memalign(&data, MOST_ALIGNMENT, (size_t)size) != 0 || fseek(file, 0, SEEK_SET) != 0 ||
            fread(data, 1, (size_t)size, file) != (size_t)size) {
            return 0;
        }
        fclose(file);
        files[file_count].name = strdup(entry->d_name);
        files[file_count].data = data;
        files[file_count++].size = (uint64_t)size;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return file_count > 0;
}

int main(int argc, char **argv) {
    static picture expected, pictures[2];
    rissole_memory memory;
    long stride = argc > 2 ? atol(argv[2]) : 1, total, n;
    int i, count;
    unsigned long before, enough;

    threads = argc > 3 ? (uint32_t)atoi(argv[3]) : 1;
    for (i = 0; argc > 4 && taken != NULL && strcmp(taken->name, argv[4]) != 0; i++) {
        taken = i < (int)(sizeof routes / sizeof *routes) ? &routes[i] : NULL;
    }
    if (argc < 2 || stride < 1 || threads < 1 || taken == NULL) {
        fprintf(stderr, "usage: %s MODEL_DIR [STRIDE [THREADS [ROUTE]]]\n", argv[0]);
        return 2;
    }
    path = argv[1];
    if (!read_files()) {
        perror(path);
        return 1;
    }
    rissole_memory_init(&memory, sizeof memory);
    memory.alloc = take;
    memory.realloc = change;
    memory.free = give;
    count = threads > 1 ? 2 : 1;
    if (rissole_set_memory(&memory, NULL) != RISSOLE_STATUS_OK) {
        return 1;
    }
    /* The first call leaves behind what lives as long as the program. */
    expected.drawn = 1;
    run_each(&expected, 1);
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
    printf("%s: %ld allocations, %lu refusals, every one told\n", taken->name, total, refusals);
    return refusals >= (threads > 1 ? enough / 2 : enough) ? 0 : 1;
}
