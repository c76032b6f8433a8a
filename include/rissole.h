/* rissole: image generation on edge devices. The C interface; generated, do not edit.
 *
 *     static uint8_t pixels[64 * 64 * 3];      // as rissole_image_bytes tells
 *     rissole_model *model;
 *     rissole_generator *generator;
 *     rissole_image image;
 *     rissole_error error;
 *     if (rissole_model_open("avatars64", &model, &error) != RISSOLE_STATUS_OK) { puts(error.message); ... }
 *     if (rissole_generator_open(model, NULL, &generator, &error) != RISSOLE_STATUS_OK) { ... }
 *     rissole_image_init(&image, sizeof image);
 *     image.pixels = pixels;
 *     image.bytes = sizeof pixels;
 *     if (rissole_generate(generator, NULL, &image, NULL, &error) != RISSOLE_STATUS_OK) { ... }
 *
 * Every function that can fail answers a rissole_status and, where error is not NULL, says what went wrong there.
 * No function unwinds or prints, nor ends the program, but where memory that the RAM budget allows cannot be had (see
 * rissole_set_memory), or a file that is mapped is cut short (see rissole_model_open). Structs that may grow begin with
 * struct_size = sizeof of the struct, which their _init function sets. Numbers named like rissole_sampler in a comment are
 * values of that enum.
 *
 * Threads: a model may be used by any number of threads at once. A generator may be used by one thread at a time;
 * rissole_generator_cancel may come from any thread or signal handler at any time. A stack of 1 MiB is enough for every
 * function. Callbacks must return to the library: not by an exception, nor by longjmp.
 */

#ifndef RISSOLE_H
#define RISSOLE_H

#include <stddef.h>
#include <stdint.h>
/* The version of the binary interface that this header describes; see rissole_abi_version. */
#define RISSOLE_ABI_VERSION 2
/* The library's version that this header came with; see rissole_version. */
#define RISSOLE_VERSION_MAJOR 0
#define RISSOLE_VERSION_MINOR 1
#define RISSOLE_VERSION_PATCH 0
/* query_id of a rissole_report where the query was no picture of the database. */
#define RISSOLE_NO_ID UINT32_MAX


/**
 * What a function answers. The values never change.
 */
typedef enum rissole_status {
    /**
     * All is well.
     */
    RISSOLE_STATUS_OK = 0,
    /**
     * A defect of the library.
     */
    RISSOLE_STATUS_INTERNAL = 1,
    /**
     * An argument cannot be: NULL, misaligned, out of bounds, or not what this bundle takes.
     */
    RISSOLE_STATUS_ARGUMENT = 2,
    /**
     * A file of the bundle is missing, damaged, foreign or inconsistent.
     */
    RISSOLE_STATUS_BUNDLE = 3,
    /**
     * The work does not fit in the RAM budget; `needs` says what would do, where that is known.
     */
    RISSOLE_STATUS_BUDGET = 4,
    /**
     * The operating system, or the program's read callback, refused a read.
     */
    RISSOLE_STATUS_IO = 5,
    /**
     * The caller's buffer is too small; `needs` says how many bytes it must have.
     */
    RISSOLE_STATUS_BUFFER = 6,
    /**
     * The caller asked to stop.
     */
    RISSOLE_STATUS_CANCELLED = 7,
    /**
     * The generator is at work on another thread, or in the callback that called.
     */
    RISSOLE_STATUS_BUSY = 8,
    /**
     * The program's own memory (rissole_set_memory) refused what the library asked for.
     */
    RISSOLE_STATUS_MEMORY = 9,
} rissole_status;

/**
 * Samplers.
 */
typedef enum rissole_sampler {
    /**
     * The model's own.
     */
    RISSOLE_SAMPLER_DEFAULT = 0,
    /**
     * Ancestral DDPM.
     */
    RISSOLE_SAMPLER_DDPM = 1,
    /**
     * DDIM, deterministic.
     */
    RISSOLE_SAMPLER_DDIM = 2,
    /**
     * DPM-Solver++ 2M.
     */
    RISSOLE_SAMPLER_DPMPP2M = 3,
    /**
     * Multistep consistency sampling, for a model tuned for it.
     */
    RISSOLE_SAMPLER_CONSISTENCY = 4,
} rissole_sampler;

/**
 * How a pixel lies in memory.
 */
typedef enum rissole_pixel_format {
    /**
     * Three bytes: red, green, blue.
     */
    RISSOLE_PIXEL_FORMAT_RGB8 = 1,
    /**
     * Four bytes: red, green, blue, alpha (255).
     */
    RISSOLE_PIXEL_FORMAT_RGBA8 = 2,
} rissole_pixel_format;

/**
 * Whose neighbours guide the picture.
 */
typedef enum rissole_query_kind {
    /**
     * A picture of the database, chosen by the seed.
     */
    RISSOLE_QUERY_KIND_RANDOM = 0,
    /**
     * The picture of the database with the number `id`.
     */
    RISSOLE_QUERY_KIND_ID = 1,
    /**
     * The caller's picture at `pixels`.
     */
    RISSOLE_QUERY_KIND_PICTURE = 2,
} rissole_query_kind;

/**
 * What has happened.
 */
typedef enum rissole_progress_kind {
    /**
     * The picture is begun.
     */
    RISSOLE_PROGRESS_KIND_STARTED = 0,
    /**
     * The neighbours are known; not told where the model does not use its database.
     */
    RISSOLE_PROGRESS_KIND_RETRIEVED = 1,
    /**
     * Some blocks went one step further; `preview` is there.
     */
    RISSOLE_PROGRESS_KIND_STEP = 2,
    /**
     * The block at `position` is finished; `preview` is there.
     */
    RISSOLE_PROGRESS_KIND_BLOCK = 3,
    /**
     * All blocks are finished; the decoder begins.
     */
    RISSOLE_PROGRESS_KIND_DECODING = 4,
} rissole_progress_kind;

/**
 * What draws. One thread at a time; a second one is answered RISSOLE_STATUS_BUSY.
 */
typedef struct rissole_generator rissole_generator;

/**
 * An opened bundle. Immutable: any number of threads may use it at once.
 */
typedef struct rissole_model rissole_model;

/**
 * The picture as it stands. It lives as long as the callback that was given it.
 */
typedef struct rissole_preview rissole_preview;

/**
 * One file of a model in memory.
 */
typedef struct rissole_memory_file {
    /**
     * Its name in the bundle, like "manifest.json", UTF-8.
     */
    const char *name;
    /**
     * Its bytes, starting on a multiple of 64.
     */
    const void *data;
    /**
     * How many.
     */
    uint64_t size;
} rissole_memory_file;

/**
 * What went wrong, in memory of the caller. Functions that can fail take a pointer to one, or NULL; it is written
 * at every call, also when all is well (then the message is empty). Its layout never changes.
 */
typedef struct rissole_error {
    /**
     * What the function answered.
     */
    enum rissole_status status;
    /**
     * Always 0.
     */
    uint32_t reserved;
    /**
     * Bytes that would do, for RISSOLE_STATUS_BUFFER and RISSOLE_STATUS_BUDGET; 0 where that is not known (of
     * rissole_preview_get_image), and for any other status.
     */
    uint64_t needs;
    /**
     * What went wrong and with which file, in English, UTF-8, cut to fit, always ended by NUL.
     */
    char message[504];
} rissole_error;

/**
 * Answers the size of the file `name` in bytes, or something negative where there is none. It must not throw or longjmp.
 */
typedef int64_t (*rissole_file_size_fn)(const char *name, void *user);

/**
 * Reads up to `size` bytes from `offset` of the file `name` into `buffer`. Answers how many they were, 0 at the end
 * of the file, or something negative where it cannot be read (RISSOLE_STATUS_IO). It must not throw or longjmp.
 */
typedef int64_t (*rissole_file_read_fn)(const char *name,
                                        uint64_t offset,
                                        void *buffer,
                                        uint64_t size,
                                        void *user);

/**
 * How a model's files are read. Both callbacks may be called on any thread that uses the model or one of its generators,
 * and on those that a generator with several threads has of its own; on several at once. They must use neither model nor
 * generator.
 */
typedef struct rissole_file_reader {
    /**
     * sizeof(rissole_file_reader).
     */
    uint32_t struct_size;
    /**
     * Always 0.
     */
    uint32_t reserved;
    /**
     * Tells sizes.
     */
    rissole_file_size_fn file_size;
    /**
     * Reads.
     */
    rissole_file_read_fn file_read;
    /**
     * Given to both.
     */
    void *user;
} rissole_file_reader;

/**
 * How to draw. rissole_options_init sets every field to what is usual.
 */
typedef struct rissole_options {
    /**
     * sizeof(rissole_options).
     */
    uint32_t struct_size;
    /**
     * Threads that draw: the caller's and, while a call draws or decodes, others with stacks of 1 MiB, which the budget
     * counts; 0 or 1: the caller's alone. Each draws a block of its own; a block that is alone, as the thumbnail is, they
     * draw together, and they decode together. The pixels do not depend on it.
     */
    uint32_t threads;
    /**
     * A rissole_sampler.
     */
    uint32_t sampler;
    /**
     * Sampling steps; 0: the model's.
     */
    uint32_t steps;
    /**
     * Neighbours; 0: the model's.
     */
    uint32_t neighbours;
    /**
     * Whether a queried picture may not be its own neighbour: 0 it may, 1 it may not, 2 as the model says.
     */
    uint32_t exclude_self;
    /**
     * Bytes that the library may allocate in this process; 0: no limit. What models and generators hold when this one is
     * opened is counted, what another takes later is not foreseen: where several draw at once, leave room for the others.
     */
    uint64_t ram_budget;
    /**
     * How strongly the neighbours guide, at most 100; 1: as trained, which every model can; 0: the model's. All but 1
     * takes twice as long.
     */
    float guidance;
    /**
     * Always 0.
     */
    uint32_t reserved;
} rissole_options;

/**
 * What to draw. rissole_request_init sets every field to what is usual.
 */
typedef struct rissole_request {
    /**
     * sizeof(rissole_request).
     */
    uint32_t struct_size;
    /**
     * A rissole_query_kind.
     */
    uint32_t query;
    /**
     * The seed: the same seed, query and options give the same pixels.
     */
    uint64_t seed;
    /**
     * For RISSOLE_QUERY_KIND_ID.
     */
    uint32_t id;
    /**
     * For RISSOLE_QUERY_KIND_PICTURE: width, which must be the model's.
     */
    uint32_t width;
    /**
     * Height, likewise.
     */
    uint32_t height;
    /**
     * Always 0.
     */
    uint32_t reserved;
    /**
     * Bytes from row to row; 0: no gap.
     */
    uint64_t stride;
    /**
     * Red, green, blue of each pixel, 8 bits each.
     */
    const uint8_t *pixels;
} rissole_request;

/**
 * How a picture came about. rissole_report_init makes it ready to be filled in.
 */
typedef struct rissole_report {
    /**
     * sizeof(rissole_report).
     */
    uint32_t struct_size;
    /**
     * The database picture that was the query, or RISSOLE_NO_ID.
     */
    uint32_t query_id;
    /**
     * Sampling steps.
     */
    uint32_t steps;
    /**
     * A rissole_sampler.
     */
    uint32_t sampler;
    /**
     * Seconds of opening files and loading networks, since the picture before.
     */
    double load_seconds;
    /**
     * Seconds of finding the neighbours.
     */
    double retrieve_seconds;
    /**
     * Seconds of denoising, the callback's included.
     */
    double denoise_seconds;
    /**
     * Seconds of decoding.
     */
    double decode_seconds;
    /**
     * Most bytes of heap at once since the program began; 0 where the library does not count.
     */
    uint64_t peak_heap;
    /**
     * Most bytes of the process in RAM at once, mapped files included; 0 where the system does not tell.
     */
    uint64_t peak_rss;
    /**
     * How strongly the neighbours guided; 1: as trained.
     */
    float guidance;
    /**
     * Always 0.
     */
    uint32_t reserved;
} rissole_report;

/**
 * Progress of one picture. Fields may be added at the end.
 */
typedef struct rissole_progress {
    /**
     * sizeof(rissole_progress) of the library.
     */
    uint32_t struct_size;
    /**
     * A rissole_progress_kind.
     */
    uint32_t kind;
    /**
     * Steps done, of all blocks together.
     */
    uint32_t done;
    /**
     * Steps in all.
     */
    uint32_t total;
    /**
     * For RISSOLE_PROGRESS_KIND_BLOCK: what was finished. With `thumbnail` of the rissole_model_info, thumbnail + b is
     * block b. What comes before shows until blocks take its place: 0 is the thumbnail, which shows everywhere, others
     * are blocks of coarser levels. Blocks are counted row by row: b lies in row b / block_cols and column b % block_cols
     * of the blocks, each of which has latent_height / block_rows rows and latent_width / block_cols columns of cells, or
     * height / block_rows rows and width / block_cols columns of pixels; nothing is left over.
     */
    uint32_t position;
    /**
     * Values at `latent`: 0 or as many as the rissole_model_info says.
     */
    uint32_t latent_values;
    /**
     * The whole latent as it stands, channel by channel, row by row, as rissole_model_info tells, or NULL; valid until the
     * callback returns.
     */
    const float *latent;
    /**
     * The picture as it stands, or NULL; valid until the callback returns.
     */
    const struct rissole_preview *preview;
} rissole_progress;

/**
 * Told of progress on the thread that draws. Answers 0 to go on, anything else to stop
 * (RISSOLE_STATUS_CANCELLED). It must not use the generator, rissole_generator_cancel apart, nor throw or longjmp.
 */
typedef int (*rissole_progress_fn)(const struct rissole_progress *progress, void *user);

/**
 * A picture in memory of the caller: where it is to be written, and how. After rissole_image_init set `pixels` and `bytes`,
 * and `format` and `stride` where they are to be others. The function sets `width` and `height`, and writes the bytes of the
 * pixels, not those between the end of a row and the next.
 */
typedef struct rissole_image {
    /**
     * sizeof(rissole_image).
     */
    uint32_t struct_size;
    /**
     * A rissole_pixel_format.
     */
    uint32_t format;
    /**
     * Pixels in a row; set by the function.
     */
    uint32_t width;
    /**
     * Rows; set by the function.
     */
    uint32_t height;
    /**
     * Bytes from one row to the next; 0: rows follow each other without a gap.
     */
    uint64_t stride;
    /**
     * Room at `pixels`, as rissole_image_bytes tells. Too little: RISSOLE_STATUS_BUFFER, and the error's `needs` says how
     * much is needed.
     */
    uint64_t bytes;
    /**
     * Where the pixels go.
     */
    uint8_t *pixels;
} rissole_image;

/**
 * Told of one line of log, on the thread that logs; `level` is 1 error, 2 warning, 3 info, 4 debug, 5 trace.
 * `message` is UTF-8, ends with NUL and is valid until the callback returns. It must not call the library, throw or
 * longjmp.
 */
typedef void (*rissole_log_fn)(uint32_t level, const char *message, void *user);

/**
 * Answers `size` bytes at a multiple of `alignment`, a power of two of at most 64, or NULL.
 */
typedef void *(*rissole_alloc_fn)(size_t size, size_t alignment, void *user);

/**
 * Answers a block of `new_size` bytes that begins with the bytes of `block`, which has `old_size` and is given back; or
 * NULL, with `block` as it was.
 */
typedef void *(*rissole_realloc_fn)(void *block,
                                    size_t old_size,
                                    size_t new_size,
                                    size_t alignment,
                                    void *user);

/**
 * Takes a block back.
 */
typedef void (*rissole_free_fn)(void *block, size_t size, size_t alignment, void *user);

/**
 * Where the library's memory comes from. None of the functions may throw or longjmp.
 */
typedef struct rissole_memory {
    /**
     * sizeof(rissole_memory).
     */
    uint32_t struct_size;
    /**
     * Always 0.
     */
    uint32_t reserved;
    /**
     * Gives.
     */
    rissole_alloc_fn alloc;
    /**
     * Changes sizes.
     */
    rissole_realloc_fn realloc;
    /**
     * Takes back.
     */
    rissole_free_fn free;
    /**
     * Given to all three.
     */
    void *user;
} rissole_memory;

/**
 * What a model draws and how it does by default. rissole_model_info_init makes it ready to be filled in.
 */
typedef struct rissole_model_info {
    /**
     * sizeof(rissole_model_info).
     */
    uint32_t struct_size;
    /**
     * Width of the pictures in pixels.
     */
    uint32_t width;
    /**
     * Height of the pictures in pixels.
     */
    uint32_t height;
    /**
     * Rows of blocks.
     */
    uint32_t block_rows;
    /**
     * Columns of blocks.
     */
    uint32_t block_cols;
    /**
     * Positions that are drawn before the blocks: 0; 1, a thumbnail; more, a thumbnail and the blocks of coarser levels.
     */
    uint32_t thumbnail;
    /**
     * Most neighbours that can be asked for.
     */
    uint32_t neighbours;
    /**
     * Most sampling steps that can be asked for.
     */
    uint32_t max_steps;
    /**
     * Sampling steps by default.
     */
    uint32_t steps;
    /**
     * Sampler by default, a rissole_sampler.
     */
    uint32_t sampler;
    /**
     * 1 where pictures can be queries, else 0.
     */
    uint32_t has_encoder;
    /**
     * Values of a latent: latent_channels · latent_height · latent_width.
     */
    uint32_t latent_values;
    /**
     * Channels of a latent. The one at `c` in row `y` and column `x` has the value
     * latent[(c · latent_height + y) · latent_width + x].
     */
    uint32_t latent_channels;
    /**
     * Rows of cells of a latent. `height` is a multiple of it, and it is one of `block_rows`.
     */
    uint32_t latent_height;
    /**
     * Columns of cells of a latent. `width` is a multiple of it, and it is one of `block_cols`.
     */
    uint32_t latent_width;
} rissole_model_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the binary interface of the library that runs; compare it with RISSOLE_ABI_VERSION. Any
 * thread.
 */
uint32_t rissole_abi_version(void);

/**
 * The library's version, like "0.1.0". Never NULL, valid for ever. Any thread.
 */
const char *rissole_version(void);

/**
 * Bytes of heap that the library has allocated: now, and most at once since the program began. Either pointer may
 * be NULL. Zeros where the library does not count (a Rust program without the counting allocator). Any thread.
 *
 * # Safety
 * Each pointer is NULL or points to a uint64_t.
 */
void rissole_heap(uint64_t *live,
                  uint64_t *peak);

/**
 * The name of a status, like "over budget". Never NULL, valid for ever; any number may be asked for. Any thread.
 */
const char *rissole_status_string(int32_t status);

/**
 * Opens the bundle whose files are the `count` ones at `files`, as rissole_model_open does: manifest.json and all that it
 * names, which is every file of the bundle's folder but those for people (README.md, *.html, pictures); others may be among
 * them. The *.packed ones may be left out: networks are then copied into the heap. Files are used where they are and not
 * copied: in flash, in a mapping, in a section of the program. Their bytes must stay as they are until the model and all its
 * generators are closed; the array and the names may go. Any thread.
 *
 * # Safety
 * `files` is NULL or points to `count` rissole_memory_file, whose names end with NUL and whose data has `size` bytes;
 * `model` is NULL or points to a pointer; `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_model_open_memory(const struct rissole_memory_file *files,
                                              uint64_t count,
                                              struct rissole_model **model,
                                              struct rissole_error *error);

/**
 * Empties `file_reader`, which has `size` = sizeof(rissole_file_reader) bytes. NULL is ignored. Any thread.
 *
 * # Safety
 * `file_reader` is NULL or points to `size` bytes.
 */
void rissole_file_reader_init(struct rissole_file_reader *file_reader,
                              size_t size);

/**
 * Opens the bundle whose files `reader` reads, as rissole_model_open does. Networks are read into the heap while they
 * are needed, and may be asked for again later; of database and index what a search looks at is read, through a cache of
 * 256 KiB each. A RAM budget counts all of it. Any thread.
 *
 * # Safety
 * `reader` is NULL or has `struct_size` bytes, and its callbacks may be called until the model and all its generators
 * are closed; `model` is NULL or points to a pointer; `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_model_open_reader(const struct rissole_file_reader *reader,
                                              struct rissole_model **model,
                                              struct rissole_error *error);

/**
 * Sets all of `options`, which has `size` = sizeof(rissole_options) bytes, to what is usual: one thread, no budget, all else
 * as the model says. NULL is ignored. Any thread.
 *
 * # Safety
 * `options` is NULL or points to `size` bytes.
 */
void rissole_options_init(struct rissole_options *options,
                          size_t size);

/**
 * Sets all of `request`, which has `size` = sizeof(rissole_request) bytes, to what is usual: a picture of the database as
 * query, seed 0. NULL is ignored. Any thread.
 *
 * # Safety
 * `request` is NULL or points to `size` bytes.
 */
void rissole_request_init(struct rissole_request *request,
                          size_t size);

/**
 * Makes `report`, which has `size` = sizeof(rissole_report) bytes, ready to be filled in. NULL is ignored. Any thread.
 *
 * # Safety
 * `report` is NULL or points to `size` bytes.
 */
void rissole_report_init(struct rissole_report *report,
                         size_t size);

/**
 * The least `ram_budget` with which a generator with `options` can be opened now: bytes of heap that it needs, with
 * what the library holds already: one thread, the networks of one stage at a time, the picture decoded in small tiles where
 * the decoder allows. Loads the networks one by one to find out. `options` may be NULL for the usual ones. Any thread; what
 * others hold meanwhile is counted.
 *
 * # Safety
 * `model` is NULL or open; `options` is NULL or has `struct_size` bytes; `needs` is NULL or points to a uint64_t;
 * `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_plan(const struct rissole_model *model,
                                 const struct rissole_options *options,
                                 uint64_t *needs,
                                 struct rissole_error *error);

/**
 * Opens a generator of `model` and puts it into `*generator`, which becomes NULL on failure: loads the networks,
 * one by one under a budget. `options` may be NULL for the usual ones. Within `ram_budget` it takes the fastest way of
 * drawing that fits, all of which give the same pixels; RISSOLE_STATUS_BUDGET where none does: see rissole_plan. Close it
 * with rissole_generator_close. Any thread.
 *
 * # Safety
 * `model` is NULL or open; `options` is NULL or has `struct_size` bytes; `generator` is NULL or points to a pointer;
 * `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_generator_open(const struct rissole_model *model,
                                           const struct rissole_options *options,
                                           struct rissole_generator **generator,
                                           struct rissole_error *error);

/**
 * Closes a generator; NULL is ignored. Any thread, while no other uses it.
 *
 * # Safety
 * `generator` is NULL or came from rissole_generator_open and was not closed.
 */
void rissole_generator_close(struct rissole_generator *generator);

/**
 * Has progress told to `callback`, with `user`; NULL: to nobody. On failure all stays as it was. One thread at a time.
 *
 * # Safety
 * `generator` is NULL or open; `callback` may be called with `user` while a picture is drawn; `error` is NULL or
 * points to a rissole_error.
 */
enum rissole_status rissole_generator_set_progress(struct rissole_generator *generator,
                                                   rissole_progress_fn callback,
                                                   void *user,
                                                   struct rissole_error *error);

/**
 * Stops the picture that is being drawn at its next step, or once it is decoded; where none is being drawn any more, the
 * next one as it begins. That call answers RISSOLE_STATUS_CANCELLED. From any thread, and from a signal handler. NULL is
 * ignored.
 *
 * # Safety
 * `generator` is NULL or open.
 */
void rissole_generator_cancel(struct rissole_generator *generator);

/**
 * Draws a picture into `image`. `request` may be NULL for the usual one, `report` for none. Nothing is written to
 * `image` unless all went well. One thread at a time.
 *
 * # Safety
 * `generator` is NULL or open; `request`, `image`, `report` are NULL or have `struct_size` bytes; `image->pixels` has
 * `image->bytes` bytes; `request->pixels` has the rows that its numbers say; `error` is NULL or points to a
 * rissole_error.
 */
enum rissole_status rissole_generate(struct rissole_generator *generator,
                                     const struct rissole_request *request,
                                     struct rissole_image *image,
                                     struct rissole_report *report,
                                     struct rissole_error *error);

/**
 * Empties `image`, which has `size` = sizeof(rissole_image) bytes: RGB8, rows without gaps, no room. NULL is ignored. Any
 * thread.
 *
 * # Safety
 * `image` is NULL or points to `size` bytes.
 */
void rissole_image_init(struct rissole_image *image,
                        size_t size);

/**
 * Puts into `*bytes` how much room a picture of `model` takes in `format`, a rissole_pixel_format, with `stride` bytes from
 * one row to the next (0: no gap): what `bytes` of a rissole_image must be at least. Any thread.
 *
 * # Safety
 * `model` is NULL or open; `bytes` is NULL or points to a uint64_t; `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_image_bytes(const struct rissole_model *model,
                                        uint32_t format,
                                        uint64_t stride,
                                        uint64_t *bytes,
                                        struct rissole_error *error);

/**
 * Has every line of log up to `level` (0 none, 1 error … 5 trace) told to `callback`, from any thread; NULL or 0
 * silences. Waits for a callback that runs, so after it returned the former `user` is not used any more. Any thread.
 *
 * # Safety
 * `callback` may be called from any thread, with `user`, until it is replaced.
 */
void rissole_set_log(uint32_t level,
                     rissole_log_fn callback,
                     void *user);

/**
 * Empties `memory`, which has `size` = sizeof(rissole_memory) bytes. NULL is ignored. Any thread, also before
 * rissole_set_memory.
 *
 * # Safety
 * `memory` is NULL or points to `size` bytes.
 */
void rissole_memory_init(struct rissole_memory *memory,
                         size_t size);

/**
 * Takes all memory from `memory` instead of from the system, until the program ends. Once, before any other function
 * of the library but rissole_memory_init; else RISSOLE_STATUS_BUSY. Mapped files are no memory in this sense, stacks of
 * threads neither.
 *
 * The functions may be called from any thread that uses the library, and from its own where a generator has several;
 * they must not call the library. Have as much as rissole_plan says ready, and what your blocks lose to each other.
 *
 * A NULL makes every function that is at work, on any thread, answer RISSOLE_STATUS_MEMORY, with nothing handed out (but
 * for those that ask for no memory: rissole_model_get_info, rissole_image_bytes, rissole_generator_set_progress); the next
 * call works again where there is memory. A program in Rust cannot do without memory that it asked for, so until the
 * function has ended, what was refused comes from the system: while a generator is opened as much as it needs, while a
 * picture is drawn what is missing up to the next step. What a generator that stays open has taken so, it keeps until
 * it is closed. Only where the system has nothing either does the program end, by abort().
 *
 * # Safety
 * `memory` is NULL or has `struct_size` bytes, and its functions do what their types say; `error` is NULL or points to
 * a rissole_error.
 */
enum rissole_status rissole_set_memory(const struct rissole_memory *memory,
                                       struct rissole_error *error);

/**
 * Opens the bundle in the folder `path` (UTF-8) and puts it into `*model`, which becomes NULL on failure. Checks the
 * manifest, and presence and size of every file. Close it with rissole_model_close. Any thread.
 *
 * The files are mapped until the model and all its generators are closed. Where someone else cuts one short meanwhile, or
 * its storage fails, the system ends the program (SIGBUS): replace files by renaming others over them. Models opened by
 * rissole_model_open_reader or rissole_model_open_memory map nothing.
 *
 * # Safety
 * `path` is NULL or ends with NUL; `model` is NULL or points to a pointer; `error` is NULL or points to a
 * rissole_error.
 */
enum rissole_status rissole_model_open(const char *path,
                                       struct rissole_model **model,
                                       struct rissole_error *error);

/**
 * Closes a model; NULL is ignored. Its generators may live on. Any thread, while no other uses it.
 *
 * # Safety
 * `model` is NULL or came from rissole_model_open, rissole_model_open_memory or rissole_model_open_reader, and was not
 * closed.
 */
void rissole_model_close(struct rissole_model *model);

/**
 * Makes `model_info`, which has `size` = sizeof(rissole_model_info) bytes, ready to be filled in. NULL is ignored. Any
 * thread.
 *
 * # Safety
 * `model_info` is NULL or points to `size` bytes.
 */
void rissole_model_info_init(struct rissole_model_info *model_info,
                             size_t size);

/**
 * Fills in what the model draws. Any thread.
 *
 * # Safety
 * `model` is NULL or open; `info` is NULL or has `struct_size` bytes; `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_model_get_info(const struct rissole_model *model,
                                           struct rissole_model_info *info,
                                           struct rissole_error *error);

/**
 * The model's name; valid until it is closed, NULL for NULL. Any thread.
 *
 * # Safety
 * `model` is NULL or open.
 */
const char *rissole_model_name(const struct rissole_model *model);

/**
 * The terms of the model's weights and database; valid until it is closed, NULL for NULL. Any thread.
 *
 * # Safety
 * `model` is NULL or open.
 */
const char *rissole_model_licence(const struct rissole_model *model);

/**
 * Reads every file of the model and checks its hash: after a download, or when storage is in doubt. Any thread.
 *
 * # Safety
 * `model` is NULL or open; `error` is NULL or points to a rissole_error.
 */
enum rissole_status rissole_model_verify(const struct rissole_model *model,
                                         struct rissole_error *error);

/**
 * Decodes the picture as it stands into `image`; costs as much as the end of a picture does. Only within the callback that
 * was given `preview`, on its thread. RISSOLE_STATUS_BUDGET: the budget keeps the decoder out of memory while blocks are
 * drawn.
 *
 * # Safety
 * `preview` is NULL or as given to the callback that calls; `image` as for rissole_generate.
 */
enum rissole_status rissole_preview_get_image(const struct rissole_preview *preview,
                                              struct rissole_image *image,
                                              struct rissole_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RISSOLE_H */
