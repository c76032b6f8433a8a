/* Draws from a model whose files are read by callbacks, as from an archive or an encrypted store; here they call stdio:
 * reader MODEL_DIR */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *open_file(const char *folder, const char *name) {
    char path[1024];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    return length < (int)sizeof path ? fopen(path, "rb") : NULL;
}

static int64_t file_size(const char *name, void *user) {
    FILE *file = open_file(user, name);
    int64_t size = -1;
    if (file != NULL) {
        if (fseek(file, 0, SEEK_END) == 0) {
            size = ftell(file);
        }
        fclose(file);
    }
    return size;
}

static int64_t file_read(const char *name, uint64_t offset, void *buffer, uint64_t size, void *user) {
    FILE *file = open_file(user, name);
    int64_t got = -1;
    if (file != NULL) {
        if (fseek(file, (long)offset, SEEK_SET) == 0) {
            got = (int64_t)fread(buffer, 1, (size_t)size, file);
        }
        fclose(file);
    }
    return got;
}

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_model_info info = {.struct_size = sizeof info};
    rissole_image image = {.struct_size = sizeof image, .format = RISSOLE_PIXEL_FORMAT_RGB8};
    rissole_report report = {.struct_size = sizeof report};
    rissole_file_reader reader = {.struct_size = sizeof reader, .file_size = file_size, .file_read = file_read};
    rissole_error error;
    int failed = 1;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR\n", argv[0]);
        return 2;
    }
    reader.user = argv[1];
    if (rissole_model_open_reader(&reader, &model, &error) == RISSOLE_STATUS_OK &&
        rissole_model_get_info(model, &info, &error) == RISSOLE_STATUS_OK &&
        rissole_generator_open(model, NULL, &generator, &error) == RISSOLE_STATUS_OK) {
        image.bytes = (uint64_t)info.width * info.height * 3;
        image.pixels = malloc(image.bytes);
        failed = rissole_generate(generator, NULL, &image, &report, &error) != RISSOLE_STATUS_OK;
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", rissole_status_string(error.status), error.message);
    } else {
        printf("%ux%u pixels, peak heap %llu bytes, the files among them\n", (unsigned)image.width,
               (unsigned)image.height, (unsigned long long)report.peak_heap);
    }
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return failed;
}
