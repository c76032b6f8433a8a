// Tensor cores, in bf16. This file and those that use it are part of programs with activations in bf16 alone.

#ifndef EMULATED_MMA
// d += a · b of 16 × 16 and 16 × 8 over a warp, in the fragments of PTX's mma.m16n8k16.
static __device__ __forceinline__ void mma(float* d, const unsigned* a, const unsigned* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// What a thread moves at a time: 16 bytes.
typedef Pack<bf16, 8> Eight;
