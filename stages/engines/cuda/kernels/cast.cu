// The operator Cast: COUNT values from one of float16 and float32 to the other. The caller defines TO_HALF and COUNT.

#define HALF 1
#include "types.cuh"

#if TO_HALF
typedef float From;
typedef T To;
__device__ inline To convert(From value) { return from_float(value); }
#else
typedef T From;
typedef float To;
__device__ inline To convert(From value) { return to_float(value); }
#endif

extern "C" __global__ void cast(const From* x, To* __restrict__ out) {
    wait_for_predecessor();
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < COUNT; i += size_t(gridDim.x) * blockDim.x)
        out[i] = convert(x[i]);
}
