/* Every function with every pointer NULL or misaligned, from C and so with sanitizers: hostile MODEL_DIR
 * tests/c_hostile.rs has the numbers and structs that cannot be. Also that a panic within the library as it was linked could
 * be caught by it: the tables by which a stack is unwound are all there. */
#include <rissole.h>
#include <stdio.h>
#include <unwind.h>

static int refused, failed, unwound;

int main(int argc, char **argv);

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *user) {
    (void)user;
    /* The lowest bit says Thumb on ARM. */
    unwound |= (((uintptr_t)_Unwind_GetRegionStart(context) ^ (uintptr_t)main) & ~(uintptr_t)1) == 0;
    return _URC_NO_REASON;
}

/* Looks for main on the stack, with the library in between. */
static int on_progress(const rissole_progress *progress, void *user) {
    (void)progress;
    (void)user;
    _Unwind_Backtrace(visit, NULL);
    return 0;
}

static void argument(const char *call, rissole_status status) {
    refused++;
    if (status != RISSOLE_STATUS_ARGUMENT) {
        fprintf(stderr, "%s: %s\n", call, rissole_status_string((int32_t)status));
        failed = 1;
    }
}

#define REFUSED(call) argument(#call, (call))
/* Where no struct may lie. Only the library looks at it, which is to refuse it. */
#define ODD(pointer) ((void *)((uintptr_t)(pointer) + 1))

int main(int argc, char **argv) {
    static union {
        rissole_model_info info;
        rissole_options options;
        rissole_request request;
        rissole_image image;
        rissole_report report;
        rissole_memory memory;
        rissole_file_reader reader;
        rissole_memory_file file;
        rissole_error error;
        uint8_t bytes[2048];
    } room;
    void *bad[2];
    static uint8_t pixels[64 * 64 * 3];
    rissole_model *model = NULL, *no_model = NULL;
    rissole_generator *generator = NULL, *no_generator = NULL;
    rissole_options options;
    rissole_image image;
    rissole_error error;
    uint64_t number = 0;
    int i;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR\n", argv[0]);
        return 2;
    }
    if (rissole_abi_version() != RISSOLE_ABI_VERSION) {
        fprintf(stderr, "the library has another binary interface than its header\n");
        return 1;
    }
    rissole_options_init(&options, sizeof options);
    options.steps = 1;
    rissole_image_init(&image, sizeof image);
    image.pixels = pixels;
    image.bytes = sizeof pixels;
    if (rissole_model_open(argv[1], &model, &error) != RISSOLE_STATUS_OK ||
        rissole_generator_open(model, &options, &generator, &error) != RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    bad[0] = NULL;
    bad[1] = ODD(&room);
    for (i = 0; i < 2; i++) {
        REFUSED(rissole_model_open(argv[1], bad[i], &error));
        REFUSED(rissole_model_open_memory(bad[i], 1, &no_model, &error));
        REFUSED(rissole_model_open_memory(&room.file, 0, bad[i], &error));
        REFUSED(rissole_model_open_reader(bad[i], &no_model, &error));
        REFUSED(rissole_model_open_reader(&room.reader, bad[i], &error));
        REFUSED(rissole_model_get_info(bad[i], &room.info, &error));
        REFUSED(rissole_model_get_info(model, bad[i], &error));
        REFUSED(rissole_model_verify(bad[i], &error));
        REFUSED(rissole_image_bytes(bad[i], RISSOLE_PIXEL_FORMAT_RGB8, 0, &number, &error));
        REFUSED(rissole_image_bytes(model, RISSOLE_PIXEL_FORMAT_RGB8, 0, bad[i], &error));
        REFUSED(rissole_plan(bad[i], &options, &number, &error));
        REFUSED(rissole_plan(model, &options, bad[i], &error));
        REFUSED(rissole_generator_open(bad[i], &options, &no_generator, &error));
        REFUSED(rissole_generator_open(model, &options, bad[i], &error));
        REFUSED(rissole_generator_set_progress(bad[i], NULL, NULL, &error));
        REFUSED(rissole_generate(bad[i], NULL, &image, NULL, &error));
        REFUSED(rissole_generate(generator, NULL, bad[i], NULL, &error));
        REFUSED(rissole_preview_get_image(bad[i], &image, &error));
        REFUSED(rissole_set_memory(bad[i], &error));
        rissole_options_init(bad[i], sizeof options);
        rissole_request_init(bad[i], sizeof room.request);
        rissole_report_init(bad[i], sizeof room.report);
        rissole_image_init(bad[i], sizeof image);
        rissole_model_info_init(bad[i], sizeof room.info);
        rissole_memory_init(bad[i], sizeof room.memory);
        rissole_file_reader_init(bad[i], sizeof room.reader);
        rissole_heap(bad[i], bad[i]);
        rissole_generator_cancel(bad[i]);
        rissole_generator_close(bad[i]);
        rissole_model_close(bad[i]);
        if (rissole_model_name(bad[i]) != NULL || rissole_model_licence(bad[i]) != NULL) {
            failed = 1;
        }
    }
    REFUSED(rissole_model_open(NULL, &no_model, &error));
    REFUSED(rissole_plan(model, bad[1], &number, &error));
    REFUSED(rissole_generator_open(model, bad[1], &no_generator, &error));
    REFUSED(rissole_generate(generator, bad[1], &image, NULL, &error));
    REFUSED(rissole_generate(generator, NULL, &image, bad[1], &error));
    REFUSED(rissole_model_verify(model, bad[1]));
    rissole_set_log(5, NULL, NULL);
    for (i = 0; i < (int)sizeof room.bytes; i++) {
        failed |= room.bytes[i] != 0;
    }
    failed |= no_model != NULL || no_generator != NULL;
    /* After all that, it draws. */
    failed |= rissole_generator_set_progress(generator, on_progress, NULL, &error) != RISSOLE_STATUS_OK;
    failed |= rissole_generate(generator, NULL, &image, NULL, &error) != RISSOLE_STATUS_OK;
    rissole_generator_close(generator);
    rissole_model_close(model);
    printf("%d calls refused; a panic %s be caught\n", refused, unwound ? "would" : "would not");
    return failed || !unwound;
}
