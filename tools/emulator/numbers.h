// Elements of arrays of floats and of bf16, for the libraries that compute by definition.
#pragma once
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <utility>

static inline float get(const void* array, bool bf16, size_t i) {
    if (!bf16) return ((const float*)array)[i];
    uint32_t bits = (uint32_t)((const uint16_t*)array)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void set(void* array, bool bf16, size_t i, float value) {
    if (!bf16) {
        ((float*)array)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    ((uint16_t*)array)[i] = bits >> 16;
}

// Has the driver do `work`, or record it; whether there is a driver.
static inline bool submit(std::function<int()> work) {
    auto to = (void (*)(std::function<int()>*))dlsym(RTLD_DEFAULT, "emulator_submit");
    if (to) to(&work);
    return to;
}
