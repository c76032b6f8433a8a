/* Draws from a model whose files are read by callbacks, as from an archive or an encrypted store; here they call stdio:
 * reader MODEL_DIR [STEPS] */
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
    rissole_options options;
    rissole_image image;
    rissole_report report;
    rissole_file_reader reader;
    rissole_error error;
    int failed = 1;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [STEPS]\n", argv[0]);
        return 2;
    }
    rissole_options_init(&options, sizeof options);
    options.steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    rissole_image_init(&image, sizeof image);
    rissole_report_init(&report, sizeof report);
    rissole_file_reader_init(&reader, sizeof reader);
    reader.file_size = file_size;
    reader.file_read = file_read;
    reader.user = argv[1];
    if (rissole_model_open_reader(&reader, &model, &error) == RISSOLE_STATUS_OK &&
        rissole_image_bytes(model, image.format, image.stride, &image.bytes, &error) == RISSOLE_STATUS_OK &&
        rissole_generator_open(model, &options, &generator, &error) == RISSOLE_STATUS_OK) {
        image.pixels = malloc((size_t)image.bytes);
        if (image.pixels == NULL) {
            perror("pixels");
            goto end;
        }
        failed = rissole_generate(generator, NULL, &image, &report, &error) != RISSOLE_STATUS_OK;
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", rissole_status_string((int32_t)error.status), error.message);
    } else {
        printf("%ux%u pixels, peak heap %llu bytes, the files among them\n", (unsigned)image.width,
               (unsigned)image.height, (unsigned long long)report.peak_heap);
    }
end:
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    return failed;
}
