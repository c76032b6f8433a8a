/* Draws without malloc: all memory of the library comes from one static array. arena MODEL_DIR [STEPS]
 * First fit in a list of free blocks; a lock would be needed with more than one thread. */
#include <rissole.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA = 4 << 20, LEAST = 64 };

/* A free block; blocks are multiples of LEAST bytes at multiples of LEAST. */
typedef struct hole {
    size_t size;
    struct hole *next;
} hole;

static union {
    unsigned char bytes[ARENA + LEAST];
    hole first;
} arena;
static hole *holes;
static size_t used, most;

static size_t rounded(size_t size) {
    return size > ARENA ? 0 : (size + LEAST - 1) / LEAST * LEAST;
}

static void *take(size_t size, size_t alignment, void *user) {
    hole **link;
    (void)user;
    size = rounded(size);
    for (link = &holes; size != 0 && alignment <= LEAST && *link != NULL; link = &(*link)->next) {
        hole *found = *link;
        if (found->size < size) {
            continue;
        }
        /* The end of the hole, so that the list stays as it is unless nothing is left. */
        found->size -= size;
        if (found->size == 0) {
            *link = found->next;
        }
        used += size;
        most = used > most ? used : most;
        return (unsigned char *)found + found->size;
    }
    return NULL;
}

static void give(void *block, size_t size, size_t alignment, void *user) {
    hole *back = block, **link = &holes;
    (void)alignment;
    (void)user;
    used -= rounded(size);
    while (*link != NULL && *link < back) {
        link = &(*link)->next;
    }
    back->size = rounded(size);
    back->next = *link;
    *link = back;
    /* Neighbours become one. */
    for (link = &holes; *link != NULL && *link <= back; link = &(*link)->next) {
        hole *hole_here = *link, *next = hole_here->next;
        while (next != NULL && (unsigned char *)hole_here + hole_here->size == (unsigned char *)next) {
            hole_here->size += next->size;
            hole_here->next = next = next->next;
        }
    }
}

static void *change(void *block, size_t old_size, size_t new_size, size_t alignment, void *user) {
    void *moved;
    if (rounded(old_size) == rounded(new_size)) {
        return block;
    }
    moved = take(new_size, alignment, user);
    if (moved != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        give(block, old_size, alignment, user);
    }
    return moved;
}

int main(int argc, char **argv) {
    static uint8_t pixels[64 * 64 * 3];
    rissole_memory memory;
    rissole_image image;
    rissole_model *model = NULL;
    rissole_generator *generator = NULL;
    rissole_options options;
    rissole_request request;
    rissole_error error;
    rissole_status status;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [STEPS]\n", argv[0]);
        return 2;
    }
    holes = (hole *)(void *)(arena.bytes + LEAST - (uintptr_t)arena.bytes % LEAST);
    holes->size = ARENA;
    holes->next = NULL;

    /* The first call, but for initializing it. */
    rissole_memory_init(&memory, sizeof memory);
    memory.alloc = take;
    memory.realloc = change;
    memory.free = give;
    rissole_options_init(&options, sizeof options);
    options.ram_budget = 3 << 20;
    options.steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    rissole_request_init(&request, sizeof request);
    request.seed = 7;
    rissole_image_init(&image, sizeof image);
    image.pixels = pixels;
    image.bytes = sizeof pixels;
    if ((status = rissole_set_memory(&memory, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_model_open(argv[1], &model, &error)) == RISSOLE_STATUS_OK &&
        (status = rissole_generator_open(model, &options, &generator, &error)) == RISSOLE_STATUS_OK) {
        status = rissole_generate(generator, &request, &image, NULL, &error);
    }
    rissole_generator_close(generator);
    rissole_model_close(model);
    if (status != RISSOLE_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", rissole_status_string((int32_t)status), error.message);
        return (int)status;
    }
    if (rissole_set_memory(&memory, NULL) != RISSOLE_STATUS_BUSY) {
        fprintf(stderr, "memory was changed twice\n");
        return 1;
    }
    printf("%u of %u bytes were in use at most, %u are now\n", (unsigned)most, (unsigned)ARENA, (unsigned)used);
    return 0;
}
