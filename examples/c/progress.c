/* Draws with a RAM budget, shows progress, and stops on Ctrl-C: progress MODEL_DIR [BUDGET_BYTES] */
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
    unsigned *blocks = user;
    if (progress->kind == RISSOLE_PROGRESS_KIND_BLOCK) {
        ++*blocks;
    }
    fprintf(stderr, "\r%u of %u, %u blocks finished", (unsigned)progress->done, (unsigned)progress->total, *blocks);
    return 0;
}

static void on_log(uint32_t level, const char *message, void *user) {
    (void)user;
    fprintf(stderr, "rissole, level %u: %s\n", (unsigned)level, message);
}

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_model_info info = {.struct_size = sizeof info};
    rissole_options options;
    rissole_image image = {.struct_size = sizeof image, .format = RISSOLE_PIXEL_FORMAT_RGBA8};
    rissole_report report = {.struct_size = sizeof report};
    rissole_error error;
    rissole_status status;
    unsigned blocks = 0;
    uint64_t needs;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [BUDGET_BYTES]\n", argv[0]);
        return 2;
    }
    rissole_set_log(2, on_log, NULL);
    rissole_options_init(&options);
    options.ram_budget = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;

    if ((status = rissole_model_open(argv[1], &model, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_model_get_info(model, &info, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_plan(model, &options, &needs, &error)) == RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s draws %ux%u pixels and needs %llu bytes\n", rissole_model_name(model),
                (unsigned)info.width, (unsigned)info.height, (unsigned long long)needs);
        status = rissole_generator_open(model, &options, &generator, &error);
    }
    if (status == RISSOLE_STATUS_OK) {
        signal(SIGINT, on_interrupt);
        rissole_generator_set_progress(generator, on_progress, &blocks, NULL);
        image.bytes = (uint64_t)info.width * info.height * 4;
        image.pixels = malloc(image.bytes);
        status = rissole_generate(generator, NULL, &image, &report, &error);
        signal(SIGINT, SIG_DFL);
    }
    if (status == RISSOLE_STATUS_OK) {
        printf("\n%.2f s, at most %llu bytes of heap\n",
               report.load_seconds + report.retrieve_seconds + report.denoise_seconds + report.decode_seconds,
               (unsigned long long)report.peak_heap);
    } else {
        fprintf(stderr, "\n%s: %s\n", rissole_status_string(status), error.message);
    }
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return (int)status;
}
