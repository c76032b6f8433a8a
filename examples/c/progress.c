/* Draws with a RAM budget, shows progress, and stops on Ctrl-C: progress MODEL_DIR [BUDGET_BYTES [STEPS]] */
#include <rissole.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static rissole_generator *generator;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    rissole_generator_cancel(generator);
}

static int on_progress(const rissole_progress *progress, void *user) {
    const rissole_model_info *info = user;
    fprintf(stderr, "\r%u of %u", (unsigned)progress->done, (unsigned)progress->total);
    if (progress->kind == RISSOLE_PROGRESS_KIND_BLOCK && progress->position >= info->thumbnail) {
        uint32_t block = progress->position - info->thumbnail;
        uint32_t width = info->width / info->block_cols, height = info->height / info->block_rows;
        fprintf(stderr, ": finished are %ux%u pixels at %u,%u\n", (unsigned)width, (unsigned)height,
                (unsigned)(block % info->block_cols * width), (unsigned)(block / info->block_cols * height));
    }
    return 0;
}

static void on_log(uint32_t level, const char *message, void *user) {
    (void)user;
    fprintf(stderr, "rissole, level %u: %s\n", (unsigned)level, message);
}

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_model_info info;
    rissole_options options;
    rissole_image image;
    rissole_report report;
    rissole_error error;
    rissole_status status;
    uint64_t needs;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [BUDGET_BYTES [STEPS]]\n", argv[0]);
        return 2;
    }
    rissole_set_log(2, on_log, NULL);
    rissole_model_info_init(&info, sizeof info);
    rissole_report_init(&report, sizeof report);
    rissole_options_init(&options, sizeof options);
    options.ram_budget = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    options.steps = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    rissole_image_init(&image, sizeof image);
    image.format = RISSOLE_PIXEL_FORMAT_RGBA8;

    if ((status = rissole_model_open(argv[1], &model, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_model_get_info(model, &info, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_image_bytes(model, image.format, 0, &image.bytes, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_plan(model, &options, &needs, &error)) == RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s draws %ux%u pixels and needs %llu bytes\n", rissole_model_name(model),
                (unsigned)info.width, (unsigned)info.height, (unsigned long long)needs);
        status = rissole_generator_open(model, &options, &generator, &error);
    }
    if (status == RISSOLE_STATUS_OK) {
        image.pixels = malloc((size_t)image.bytes);
        if (image.pixels == NULL) {
            perror("pixels");
            status = RISSOLE_STATUS_MEMORY;
            goto end;
        }
        signal(SIGINT, on_interrupt);
        rissole_generator_set_progress(generator, on_progress, &info, NULL);
        status = rissole_generate(generator, NULL, &image, &report, &error);
        signal(SIGINT, SIG_DFL);
    }
    if (status == RISSOLE_STATUS_OK) {
        printf("\n%.2f s, at most %llu bytes of heap\n",
               report.load_seconds + report.retrieve_seconds + report.denoise_seconds + report.decode_seconds,
               (unsigned long long)report.peak_heap);
    } else {
        fprintf(stderr, "\n%s: %s\n", rissole_status_string((int32_t)status), error.message);
    }
end:
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return (int)status;
}
