// libcudnn.so.9: convolutions of NHWC maps by the definition in its documentation.
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "numbers.h"

enum { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { NHWC = 1, FLOAT = 0, BFLOAT16 = 9, CROSS_CORRELATION = 1, TENSOR_OP_MATH = 1, FMA_MATH = 3 };

// Of maps [n, h, w, c], and of filters [n, h, w, c] for n outputs.
struct Array {
    int type = -1, n = 0, c = 0, h = 0, w = 0;
};

struct Convolution {
    int above = -1, left = -1, stride = 0, math = 0;
};

// What a heuristic tells of an algorithm.
struct Found {
    int algorithm, status;
    float time;
    size_t memory;
    int repeats, math, reserved[3];
};

// Of each task: the fast one whose results do not repeat, one that needs too much memory, one that is not supported, and
// the one to take.
enum { FICKLE = 0, GOOD = 1, UNSUPPORTED = 2, GREEDY = 3 };
enum { GREEDY_BYTES = 1 << 30 };

static size_t workspace_of(int algorithm, const Array& filters) {
    return algorithm == GREEDY ? (size_t)GREEDY_BYTES : algorithm == GOOD ? 4 * (size_t)filters.n * filters.c + 100 : 0;
}

// Whether the convolution is one that can be done.
static int check(const Array& x, const Array& filters, const Convolution& conv, const Array& y) {
    if (x.type < 0 || filters.type < 0 || y.type < 0 || conv.stride < 1) return BAD_PARAM;
    if (x.type != filters.type || x.type != y.type) return NOT_SUPPORTED;
    // Floats as anything else would be multiplied as TF32; bf16 would miss the tensor cores.
    if (conv.math != (x.type == FLOAT ? FMA_MATH : TENSOR_OP_MATH)) return NOT_SUPPORTED;
    if (x.c != filters.c || y.c != filters.n || x.n != y.n) return BAD_PARAM;
    int height = (x.h + 2 * conv.above - filters.h) / conv.stride + 1;
    int width = (x.w + 2 * conv.left - filters.w) / conv.stride + 1;
    return filters.h > x.h + 2 * conv.above || filters.w > x.w + 2 * conv.left || y.h != height || y.w != width
               ? BAD_PARAM
               : SUCCESS;
}

static int advise(const Array& x, const Array& filters, const Convolution& conv, const Array& y, int most, int* count,
                  Found* found) {
    *count = 0;
    if (most < 4) return BAD_PARAM;
    if (int fault = check(x, filters, conv, y)) return fault;
    bool few = getenv("RISSOLE_EMULATOR_FEW_ALGORITHMS");  // for those who must do without
    if (few && y.c % 2) return NOT_SUPPORTED;
    for (int algorithm : {FICKLE, GREEDY, UNSUPPORTED, GOOD}) {
        if (few && x.c % 2 && algorithm == GOOD) continue;
        found[(*count)++] = {algorithm, algorithm == UNSUPPORTED ? NOT_SUPPORTED : SUCCESS, 1.0f * *count,
                             workspace_of(algorithm, filters), algorithm != FICKLE, conv.math, {}};
    }
    return SUCCESS;
}

static int size_of(const Array& x, const Array& filters, const Convolution& conv, const Array& y, int algorithm,
                   size_t* bytes) {
    *bytes = workspace_of(algorithm, filters);
    return algorithm == UNSUPPORTED ? NOT_SUPPORTED : check(x, filters, conv, y);
}

// Calls work(x, filter, y) for the elements of every product of the convolution.
template <typename Work>
static void for_products(const Array& x, const Array& filters, const Convolution& conv, const Array& y, Work work) {
    for (int n = 0; n < y.n; n++)
        for (int row = 0; row < y.h; row++)
            for (int col = 0; col < y.w; col++)
                for (int ky = 0; ky < filters.h; ky++)
                    for (int kx = 0; kx < filters.w; kx++) {
                        int down = row * conv.stride + ky - conv.above, right = col * conv.stride + kx - conv.left;
                        if (down < 0 || down >= x.h || right < 0 || right >= x.w) continue;
                        size_t from = (((size_t)n * x.h + down) * x.w + right) * x.c;
                        size_t to = (((size_t)n * y.h + row) * y.w + col) * y.c;
                        for (int k = 0; k < filters.n; k++) {
                            size_t filter = (((size_t)k * filters.h + ky) * filters.w + kx) * filters.c;
                            for (int c = 0; c < x.c; c++) work(from + c, filter + c, to + k);
                        }
                    }
}

// The array at `to` becomes the sums of products that `add` adds into floats, by the algorithm to be taken.
template <typename Add>
static int convolve(const Array& x, const Array& filters, const Convolution& conv, const Array& y, int algorithm,
                    const void* a, const void* b, void* workspace, size_t bytes, const float* alpha, const float* beta,
                    const Array& of_to, void* to, Add add) {
    if (int fault = check(x, filters, conv, y)) return fault;
    size_t needed = workspace_of(GOOD, filters);
    if (!a || !b || !to || algorithm != GOOD || *alpha != 1.0f || *beta != 0.0f) return BAD_PARAM;
    if (!workspace || bytes < needed) return BAD_PARAM;
    size_t elements = (size_t)of_to.n * of_to.c * of_to.h * of_to.w;
    bool bf16 = of_to.type == BFLOAT16;
    return submit([=] {
        memset(workspace, 0xff, needed);  // NaN, for whoever keeps something there
        std::vector<float> sums(elements);
        for_products(x, filters, conv, y, [&](size_t i, size_t f, size_t o) { add(sums.data(), bf16, i, f, o); });
        for (size_t i = 0; i < elements; i++) set(to, bf16, i, sums[i]);
        return SUCCESS;
    }) ? SUCCESS : EXECUTION_FAILED;
}

extern "C" {

size_t cudnnGetVersion() { return 91002; }
const char* cudnnGetErrorString(int) { return "CUDNN_STATUS (emulated)"; }
int cudnnCreate(void** handle) { return *handle = new char, SUCCESS; }
int cudnnDestroy(void* handle) { return delete (char*)handle, SUCCESS; }
int cudnnSetStream(void*, void* stream) { return stream ? SUCCESS : BAD_PARAM; }

int cudnnCreateTensorDescriptor(Array** array) { return *array = new Array, SUCCESS; }
int cudnnDestroyTensorDescriptor(Array* array) { return delete array, SUCCESS; }
int cudnnSetTensor4dDescriptor(Array* array, int format, int type, int n, int c, int h, int w) {
    if (format != NHWC || (type != FLOAT && type != BFLOAT16)) return NOT_SUPPORTED;
    if (n < 1 || c < 1 || h < 1 || w < 1) return BAD_PARAM;
    return *array = {type, n, c, h, w}, SUCCESS;
}

int cudnnCreateFilterDescriptor(Array** array) { return cudnnCreateTensorDescriptor(array); }
int cudnnDestroyFilterDescriptor(Array* array) { return cudnnDestroyTensorDescriptor(array); }
int cudnnSetFilter4dDescriptor(Array* array, int type, int format, int k, int c, int h, int w) {
    return cudnnSetTensor4dDescriptor(array, format, type, k, c, h, w);
}

int cudnnCreateConvolutionDescriptor(Convolution** conv) { return *conv = new Convolution, SUCCESS; }
int cudnnDestroyConvolutionDescriptor(Convolution* conv) { return delete conv, SUCCESS; }
int cudnnSetConvolution2dDescriptor(Convolution* conv, int above, int left, int down, int across, int dilation_h,
                                    int dilation_w, int mode, int sums) {
    if (above < 0 || left < 0 || down < 1 || across < 1 || dilation_h < 1 || dilation_w < 1) return BAD_PARAM;
    // Which the trainer has no use for.
    if (down != across || dilation_h != 1 || dilation_w != 1 || mode != CROSS_CORRELATION || sums != FLOAT) {
        return NOT_SUPPORTED;
    }
    return *conv = {above, left, down, 0}, SUCCESS;
}
int cudnnSetConvolutionMathType(Convolution* conv, int math) {
    if (math < 0 || math > FMA_MATH) return BAD_PARAM;
    return conv->math = math, SUCCESS;
}

int cudnnGetConvolutionForwardAlgorithm_v7(void*, const Array* x, const Array* filters, const Convolution* conv,
                                           const Array* y, int most, int* count, Found* found) {
    return advise(*x, *filters, *conv, *y, most, count, found);
}
int cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, const Array* filters, const Array* y, const Convolution* conv,
                                                const Array* x, int most, int* count, Found* found) {
    return advise(*x, *filters, *conv, *y, most, count, found);
}
int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, const Array* x, const Array* y, const Convolution* conv,
                                                  const Array* filters, int most, int* count, Found* found) {
    return advise(*x, *filters, *conv, *y, most, count, found);
}

int cudnnGetConvolutionForwardWorkspaceSize(void*, const Array* x, const Array* filters, const Convolution* conv,
                                            const Array* y, int algorithm, size_t* bytes) {
    return size_of(*x, *filters, *conv, *y, algorithm, bytes);
}
int cudnnGetConvolutionBackwardDataWorkspaceSize(void*, const Array* filters, const Array* y, const Convolution* conv,
                                                 const Array* x, int algorithm, size_t* bytes) {
    return size_of(*x, *filters, *conv, *y, algorithm, bytes);
}
int cudnnGetConvolutionBackwardFilterWorkspaceSize(void*, const Array* x, const Array* y, const Convolution* conv,
                                                   const Array* filters, int algorithm, size_t* bytes) {
    return size_of(*x, *filters, *conv, *y, algorithm, bytes);
}

int cudnnConvolutionForward(void*, const float* alpha, const Array* of_x, const void* x, const Array* of_filters,
                            const void* filters, const Convolution* conv, int algorithm, void* workspace, size_t bytes,
                            const float* beta, const Array* of_y, void* y) {
    auto add = [=](float* sums, bool bf16, size_t i, size_t f, size_t o) {
        sums[o] += get(x, bf16, i) * get(filters, bf16, f);
    };
    return convolve(*of_x, *of_filters, *conv, *of_y, algorithm, x, filters, workspace, bytes, alpha, beta, *of_y, y, add);
}

int cudnnConvolutionBackwardData(void*, const float* alpha, const Array* of_filters, const void* filters,
                                 const Array* of_y, const void* y, const Convolution* conv, int algorithm,
                                 void* workspace, size_t bytes, const float* beta, const Array* of_x, void* x) {
    auto add = [=](float* sums, bool bf16, size_t i, size_t f, size_t o) {
        sums[i] += get(y, bf16, o) * get(filters, bf16, f);
    };
    return convolve(*of_x, *of_filters, *conv, *of_y, algorithm, y, filters, workspace, bytes, alpha, beta, *of_x, x, add);
}

int cudnnConvolutionBackwardFilter(void*, const float* alpha, const Array* of_x, const void* x, const Array* of_y,
                                   const void* y, const Convolution* conv, int algorithm, void* workspace, size_t bytes,
                                   const float* beta, const Array* of_filters, void* filters) {
    auto add = [=](float* sums, bool bf16, size_t i, size_t f, size_t o) {
        sums[f] += get(x, bf16, i) * get(y, bf16, o);
    };
    return convolve(*of_x, *of_filters, *conv, *of_y, algorithm, x, y, workspace, bytes, alpha, beta, *of_filters, filters,
                    add);
}

}  // extern "C"
