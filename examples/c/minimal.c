/* Draws one picture and writes it as a PPM: minimal MODEL_DIR OUT.ppm [SEED [STEPS]] */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_request request;
    rissole_image image;
    rissole_error error;
    FILE *file;
    int failed = 1;

    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_DIR OUT.ppm [SEED [STEPS]]\n", argv[0]);
        return 2;
    }
    rissole_options_init(&options, sizeof options);
    options.steps = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0;
    rissole_request_init(&request, sizeof request);
    request.seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    rissole_image_init(&image, sizeof image);

    if (rissole_model_open(argv[1], &model, &error) == RISSOLE_STATUS_OK &&
        rissole_image_bytes(model, image.format, image.stride, &image.bytes, &error) == RISSOLE_STATUS_OK &&
        rissole_generator_open(model, &options, &generator, &error) == RISSOLE_STATUS_OK) {
        image.pixels = malloc((size_t)image.bytes);
        if (image.pixels == NULL) {
            perror("pixels");
            goto end;
        }
        failed = rissole_generate(generator, &request, &image, NULL, &error) != RISSOLE_STATUS_OK;
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", rissole_status_string((int32_t)error.status), error.message);
    } else if ((file = fopen(argv[2], "wb")) == NULL) {
        perror(argv[2]);
        failed = 1;
    } else {
        fprintf(file, "P6\n%u %u\n255\n", (unsigned)image.width, (unsigned)image.height);
        failed = fwrite(image.pixels, 1, (size_t)image.bytes, file) != image.bytes;
        failed |= fclose(file) != 0;
    }
end:
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return failed;
}
