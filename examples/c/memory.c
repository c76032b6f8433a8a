/* Draws from a model whose files lie in the program's memory: memory MODEL_DIR [STEPS]
 * Here they are mapped, which puts each on a multiple of the page size, and so of 64; in a device they may be in flash, or
 * in a section of the program itself. The library uses them where they are. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64 /* else folders of large disks cannot be read on 32-bit systems */
#include <dirent.h>
#include <fcntl.h>
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_FILES = 64, NAME_BYTES = 256 };

static rissole_memory_file files[MOST_FILES];
static char names[MOST_FILES][NAME_BYTES];
static uint64_t count;

/* Maps the file `name` of `folder` as one more of `files`; true where it is there now, or is none. */
static int map(int folder, const char *name) {
    struct stat about;
    void *data;
    int file, length;
    if (fstatat(folder, name, &about, 0) != 0) {
        return 0;
    }
    if (!S_ISREG(about.st_mode) || about.st_size == 0) {
        return 1;
    }
    if (count == MOST_FILES || (file = openat(folder, name, O_RDONLY)) < 0) {
        return 0;
    }
    data = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    length = snprintf(names[count], NAME_BYTES, "%s", name);
    if (data == MAP_FAILED || length >= NAME_BYTES) {
        return 0;
    }
    files[count].name = names[count];
    files[count].data = data;
    files[count].size = (uint64_t)about.st_size;
    ++count;
    return 1;
}

/* Maps every file of the folder `path`: all that the manifest names, and a few more, which do no harm. */
static int map_all(const char *path) {
    DIR *folder = opendir(path);
    const struct dirent *entry;
    int good = folder != NULL;
    while (good && (entry = readdir(folder)) != NULL) {
        good = map(dirfd(folder), entry->d_name);
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return good;
}

int main(int argc, char **argv) {
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_image image;
    rissole_error error;
    int failed = 1;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [STEPS]\n", argv[0]);
        return 2;
    }
    if (!map_all(argv[1])) {
        perror(argv[1]);
        return 1;
    }
    rissole_options_init(&options, sizeof options);
    options.steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    rissole_image_init(&image, sizeof image);

    if (rissole_model_open_memory(files, count, &model, &error) == RISSOLE_STATUS_OK &&
        rissole_image_bytes(model, image.format, image.stride, &image.bytes, &error) == RISSOLE_STATUS_OK &&
        rissole_generator_open(model, &options, &generator, &error) == RISSOLE_STATUS_OK) {
        image.pixels = malloc((size_t)image.bytes);
        if (image.pixels == NULL) {
            perror("pixels");
            goto end;
        }
        failed = rissole_generate(generator, NULL, &image, NULL, &error) != RISSOLE_STATUS_OK;
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", rissole_status_string((int32_t)error.status), error.message);
    } else {
        printf("%ux%u pixels from %u files in memory\n", (unsigned)image.width, (unsigned)image.height, (unsigned)count);
    }
end:
    free(image.pixels);
    rissole_generator_close(generator);
    rissole_model_close(model);
    /* Not before: the bytes are in use until then. */
    while (count > 0) {
        --count;
        munmap((void *)(uintptr_t)files[count].data, (size_t)files[count].size);
    }
    return failed;
}
