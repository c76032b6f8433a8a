// libcublas.so.13: column-major single precision products by the definition in its documentation.
#include <stddef.h>
#include <stdint.h>

#include <vector>

enum { SUCCESS = 0, INVALID_VALUE = 7 };

extern "C" {

int cublasCreate_v2(void** handle) { return *handle = new char, SUCCESS; }
int cublasDestroy_v2(void* handle) { return delete (char*)handle, SUCCESS; }
int cublasSetStream_v2(void*, void*) { return SUCCESS; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return SUCCESS; }
const char* cublasGetStatusName(int) { return "CUBLAS_STATUS (emulated)"; }
const char* cublasGetStatusString(int) { return "emulated"; }

// c (m × n) = alpha · op(a) (m × k) · op(b) (k × n) + beta · c; operations: 0 none, 1 transposed.
int cublasSgemm_v2(void*, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda,
                   const float* b, int ldb, const float* beta, float* c, int ldc) {
    if (m < 0 || n < 0 || k < 0 || ta > 1 || tb > 1) return INVALID_VALUE;
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return INVALID_VALUE;
    std::vector<float> sums(m);
    for (int j = 0; j < n; j++) {
        for (auto& sum : sums) sum = 0.0f;
        for (int p = 0; p < k; p++) {
            float right = tb ? b[j + (size_t)p * ldb] : b[p + (size_t)j * ldb];
            for (int i = 0; i < m; i++) sums[i] += (ta ? a[p + (size_t)i * lda] : a[i + (size_t)p * lda]) * right;
        }
        for (int i = 0; i < m; i++) {
            float& to = c[i + (size_t)j * ldc];
            to = *alpha * sums[i] + (*beta == 0.0f ? 0.0f : *beta * to);
        }
    }
    return SUCCESS;
}

}  // extern "C"
