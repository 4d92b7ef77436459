// float32 or, with HALF, float16, without CUDA's header files, which a machine with a runtime compiler may lack.

#if HALF
struct alignas(2) T {
    unsigned short bits;
};

__device__ inline float to_float(T value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ inline T from_float(float value) {
    T result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}
#else
typedef float T;

__device__ inline float to_float(T value) { return value; }

__device__ inline T from_float(float value) { return value; }
#endif

#define INFINITY __int_as_float(0x7f800000)

// total += share * the 16 bytes at `from`.
template <int VECTOR>
__device__ inline void add(float (&total)[VECTOR], const T* from, float share) {
    union {
        int4 all;
        T each[VECTOR];
    } read;
    read.all = __ldg(reinterpret_cast<const int4*>(from));
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) total[i] += share * to_float(read.each[i]);
}

// 16 bytes of `values` to `to`.
template <int VECTOR>
__device__ inline void store(T* to, const float (&values)[VECTOR]) {
    union {
        int4 all;
        T each[VECTOR];
    } written;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) written.each[i] = from_float(values[i]);
    *reinterpret_cast<int4*>(to) = written.all;
}
