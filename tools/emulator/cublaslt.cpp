// libcublasLt.so.13: column-major products by the definition in its documentation.
#include <stdlib.h>

#include <vector>

#include "numbers.h"

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68 };
enum { TRANSPOSE_A = 3, TRANSPOSE_B = 4, EPILOGUE = 7, BIAS_POINTER = 8 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };
enum { MOST_WORKSPACE = 1, REDUCTIONS = 3, ALIGNMENT_A = 5, ALIGNMENT_D = 8 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t step;
};

struct Description {
    uint32_t transpose_a = 0, transpose_b = 0, epilogue = EPILOGUE_DEFAULT;
    const void* bias = nullptr;
};

struct Preference {
    uint64_t most_workspace = 0;
    uint32_t reductions = 7;
    uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C and D
};

// What an algorithm is good for; the rest of it stays zero.
struct Problem {
    uint64_t rows, columns, depth;
    int type, type_out;
    uint16_t alignments[4];
    uint8_t transposed, biased, bias_alignment, magic;
    uint32_t workspace;
};

union Algorithm {
    uint64_t data[8];
    Problem problem;
};
static_assert(sizeof(Problem) <= 64, "an algorithm is of 64 bytes");

struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static const uint8_t MAGIC = 0x5a;

static uint32_t alignment(const void* address) {
    return 1u << __builtin_ctzll((uint64_t)address | 256);
}

// What is asked for, as far as the descriptors say; or why it cannot be.
static int problem_of(const Description& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out,
                      Problem& p) {
    memset(&p, 0, sizeof p);
    p.rows = d.transpose_a ? a.columns : a.rows;
    p.depth = d.transpose_a ? a.rows : a.columns;
    p.columns = d.transpose_b ? b.rows : b.columns;
    if ((d.transpose_b ? b.columns : b.rows) != p.depth) return INVALID_VALUE;
    if (out.rows != p.rows || out.columns != p.columns) return INVALID_VALUE;
    if (c.rows != out.rows || c.columns != out.columns || c.step != out.step) return INVALID_VALUE;
    // The rows of cublasLt's table for float sums that the trainer may meet.
    bool known = a.type == b.type && c.type == out.type && (a.type == R_16BF || out.type == R_32F);
    if (!known) return NOT_SUPPORTED;
    p.type = a.type;
    p.type_out = out.type;
    p.transposed = d.transpose_a + 2 * d.transpose_b;
    p.biased = d.epilogue == EPILOGUE_BIAS;
    if (p.biased && !d.bias) return INVALID_VALUE;
    return SUCCESS;
}

extern "C" {

int cublasLtCreate(void** handle) { return *handle = new char, SUCCESS; }
int cublasLtDestroy(void* handle) { return delete (char*)handle, SUCCESS; }

int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t step) {
    if ((type != R_32F && type != R_16BF) || !rows || !columns || step < (int64_t)rows) return INVALID_VALUE;
    return *layout = new Layout{type, rows, columns, step}, SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, SUCCESS; }

int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != R_32F) return INVALID_VALUE;
    return *description = new Description, SUCCESS;
}
int cublasLtMatmulDescDestroy(Description* description) { return delete description, SUCCESS; }

int cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* value, size_t bytes) {
    if (bytes != (attribute == BIAS_POINTER ? sizeof(void*) : 4)) return INVALID_VALUE;
    if (attribute == BIAS_POINTER) return memcpy(&d->bias, value, bytes), SUCCESS;
    uint32_t word;
    memcpy(&word, value, bytes);
    switch (attribute) {
        case TRANSPOSE_A: d->transpose_a = word; break;
        case TRANSPOSE_B: d->transpose_b = word; break;
        case EPILOGUE: d->epilogue = word; break;
        default: return INVALID_VALUE;
    }
    bool known = d->epilogue == EPILOGUE_DEFAULT || d->epilogue == EPILOGUE_BIAS;
    return known && d->transpose_a <= 1 && d->transpose_b <= 1 ? SUCCESS : INVALID_VALUE;
}

int cublasLtMatmulPreferenceCreate(Preference** preference) { return *preference = new Preference, SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Preference* preference) { return delete preference, SUCCESS; }

int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t bytes) {
    if (bytes != (attribute == MOST_WORKSPACE ? 8 : 4)) return INVALID_VALUE;
    if (attribute == MOST_WORKSPACE) return memcpy(&p->most_workspace, value, bytes), SUCCESS;
    uint32_t word;
    memcpy(&word, value, bytes);
    if (attribute == REDUCTIONS) return p->reductions = word, word <= 7 ? SUCCESS : INVALID_VALUE;
    if (attribute < ALIGNMENT_A || attribute > ALIGNMENT_D || !word || (word & (word - 1))) return INVALID_VALUE;
    return p->alignments[attribute - ALIGNMENT_A] = word, SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void*, const Description* d, const Layout* a, const Layout* b, const Layout* c,
                                   const Layout* out, const Preference* preference, int most, Found* found, int* count) {
    *count = 0;
    if (most < 1) return INVALID_VALUE;
    Problem p;
    if (int fault = problem_of(*d, *a, *b, *c, *out, p)) return fault;
    // For those who must do without.
    if (getenv("RISSOLE_EMULATOR_FEW_ALGORITHMS") && (p.biased || p.depth % 2)) return NOT_SUPPORTED;
    for (int i = 0; i < 4; i++) p.alignments[i] = preference->alignments[i] < 256 ? preference->alignments[i] : 256;
    p.bias_alignment = p.biased ? __builtin_ctz(alignment(d->bias)) : 0;
    p.workspace = preference->most_workspace < 4096 ? 0 : 4096;
    p.magic = MAGIC;
    memset(found, 0, sizeof *found);
    found->algorithm.problem = p;
    found->workspace = p.workspace;
    *count = 1;
    return SUCCESS;
}

// out (m × n) = alpha · op(a) (m × k) · op(b) (k × n) + beta · c, with the bias added to every column.
int cublasLtMatmul(void*, const Description* d, const float* alpha, const void* a, const Layout* of_a, const void* b,
                   const Layout* of_b, const float* beta, const void* c, const Layout* of_c, void* out,
                   const Layout* of_out, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void*) {
    Problem p;
    if (int fault = problem_of(*d, *of_a, *of_b, *of_c, *of_out, p)) return fault;
    if (!algorithm || !a || !b || !c || !out) return INVALID_VALUE;
    // An algorithm is for the problem that it was found for.
    const Problem& found = algorithm->problem;
    if (found.magic != MAGIC || memcmp(&found, &p, offsetof(Problem, alignments))) return INVALID_VALUE;
    if (found.transposed != p.transposed || found.biased != p.biased) return INVALID_VALUE;
    const void* arrays[] = {a, b, c, out};
    for (int i = 0; i < 4; i++) {
        if (alignment(arrays[i]) < found.alignments[i]) return INVALID_VALUE;
    }
    if (p.biased && alignment(d->bias) < 1u << found.bias_alignment) return INVALID_VALUE;
    if (found.workspace > workspace_bytes || (found.workspace && (!workspace || alignment(workspace) < 256))) {
        return INVALID_VALUE;
    }
    if (c != out) return NOT_SUPPORTED;  // which the trainer has no use for
    float scale = *alpha, keep = *beta;
    const void* bias = p.biased ? d->bias : nullptr;
    bool ta = d->transpose_a, tb = d->transpose_b, narrow = p.type == R_16BF, narrow_out = p.type_out == R_16BF;
    size_t lda = of_a->step, ldb = of_b->step, ldc = of_out->step;
    return submit([=] {
        std::vector<float> sums(p.rows);
        for (size_t j = 0; j < p.columns; j++) {
            for (auto& sum : sums) sum = 0.0f;
            for (size_t k = 0; k < p.depth; k++) {
                float right = get(b, narrow, tb ? j + k * ldb : k + j * ldb);
                for (size_t i = 0; i < p.rows; i++) sums[i] += get(a, narrow, ta ? k + i * lda : i + k * lda) * right;
            }
            for (size_t i = 0; i < p.rows; i++) {
                size_t at = i + j * ldc;
                float added = bias ? get(bias, narrow_out, i) : 0.0f;
                float kept = keep == 0.0f ? 0.0f : keep * get(out, narrow_out, at);
                set(out, narrow_out, at, scale * sums[i] + kept + added);
            }
        }
        return SUCCESS;
    }) ? SUCCESS : NOT_SUPPORTED;
}

const char* cublasLtGetStatusName(int) { return "CUBLAS_STATUS (emulated)"; }
const char* cublasLtGetStatusString(int) { return "emulated"; }

}  // extern "C"
