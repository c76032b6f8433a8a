/* Draws one picture and writes it as a PPM: minimal MODEL_DIR OUT.ppm [SEED] */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_model_info info = {.struct_size = sizeof info};
    rissole_image image = {.struct_size = sizeof image, .format = RISSOLE_PIXEL_FORMAT_RGB8};
    rissole_request request;
    rissole_error error;
    FILE *file;
    int failed = 1;

    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_DIR OUT.ppm [SEED]\n", argv[0]);
        return 2;
    }
    rissole_request_init(&request);
    request.seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;

    if (rissole_model_open(argv[1], &model, &error) == RISSOLE_STATUS_OK &&
        rissole_model_get_info(model, &info, &error) == RISSOLE_STATUS_OK &&
        rissole_generator_open(model, NULL, &generator, &error) == RISSOLE_STATUS_OK) {
        image.bytes = (uint64_t)info.width * info.height * 3;
        image.pixels = malloc(image.bytes);
        failed = rissole_generate(generator, &request, &image, NULL, &error) != RISSOLE_STATUS_OK;
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", rissole_status_string(error.status), error.message);
    } else if ((file = fopen(argv[2], "wb")) == NULL) {
        perror(argv[2]);
        failed = 1;
    } else {
        fprintf(file, "P6\n%u %u\n255\n", (unsigned)image.width, (unsigned)image.height);
        failed = fwrite(image.pixels, 1, image.bytes, file) != image.bytes;
        failed |= fclose(file) != 0;
    }
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return failed;
}
