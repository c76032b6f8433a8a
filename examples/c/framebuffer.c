/* Draws four pictures side by side into a framebuffer of the program's own, without malloc: framebuffer MODEL_DIR [STEPS] */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 320, HEIGHT = 80, PICTURES = 4 };

static uint8_t framebuffer[HEIGHT][WIDTH][4];

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_model_info info;
    rissole_options options;
    rissole_request request;
    rissole_error error;
    rissole_status status;
    unsigned long sum = 0;
    unsigned i;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [STEPS]\n", argv[0]);
        return 2;
    }
    rissole_model_info_init(&info, sizeof info);
    rissole_options_init(&options, sizeof options);
    options.steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 4;
    rissole_request_init(&request, sizeof request);
    if ((status = rissole_model_open(argv[1], &model, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_model_get_info(model, &info, &error)) == RISSOLE_STATUS_OK) {
        status = rissole_generator_open(model, &options, &generator, &error);
    }
    if (status == RISSOLE_STATUS_OK && (info.width > WIDTH / PICTURES || info.height > HEIGHT)) {
        fprintf(stderr, "pictures of %ux%u pixels do not fit\n", (unsigned)info.width, (unsigned)info.height);
        rissole_generator_close(generator);
        rissole_model_close(model);
        return 1;
    }
    for (i = 0; i < PICTURES && status == RISSOLE_STATUS_OK; ++i) {
        rissole_image image;
        uint8_t *corner = &framebuffer[0][i * (WIDTH / PICTURES)][0];
        rissole_image_init(&image, sizeof image);
        image.format = RISSOLE_PIXEL_FORMAT_RGBA8;
        image.pixels = corner;
        image.bytes = (uint64_t)((uint8_t *)framebuffer + sizeof framebuffer - corner);
        image.stride = sizeof framebuffer[0];
        request.seed = i;
        status = rissole_generate(generator, &request, &image, NULL, &error);
    }
    if (status != RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", rissole_status_string((int32_t)status), error.message);
    }
    for (i = 0; i < sizeof framebuffer; ++i) {
        sum += ((uint8_t *)framebuffer)[i];
    }
    printf("%lu\n", sum);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return (int)status;
}
