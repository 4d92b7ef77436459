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

// 16 bytes, read and written at once.
template <int VECTOR>
struct alignas(16) Pack {
    T each[VECTOR];
    __device__ Pack() { *reinterpret_cast<int4*>(each) = make_int4(0, 0, 0, 0); }
    __device__ explicit Pack(const T* from) {
        *reinterpret_cast<int4*>(each) = __ldg(reinterpret_cast<const int4*>(from));
    }
    __device__ void write(T* to) const { *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(each); }
};

#if HALF
// Two neighbours as the tensor cores take them.
__device__ inline unsigned word(const T* from) { return *reinterpret_cast<const unsigned*>(from); }

__device__ inline unsigned pack(float low, float high) {
    return unsigned(from_float(high).bits) << 16 | from_float(low).bits;
}

// A 16 x 16 tile, shared out to a warp as mma.m16n8k16 takes its first factor (PTX ISA, "Matrix Fragments"): lane 4 * g + t / 2
// has columns t, t + 1, t + 8 and t + 9 of rows g and g + 8.
struct Fragment {
    unsigned a[4];
    __device__ Fragment(const T* tile, int stride, int g, int t)
        : a{word(tile + g * stride + t), word(tile + (g + 8) * stride + t), word(tile + g * stride + t + 8),
            word(tile + (g + 8) * stride + t + 8)} {}
    // From two neighbouring 16 x 8 products.
    __device__ Fragment(const float (&left)[4], const float (&right)[4])
        : a{pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])} {}
};

// product += a * b, a 16 x 8 tile, of which a lane has columns t and t + 1 of rows g and g + 8; b0 and b1 are rows t, t + 1 and
// t + 8, t + 9 of column g of the second factor.
__device__ inline void multiply(float (&product)[4], const Fragment& f, unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(product[0]), "+f"(product[1]), "+f"(product[2]), "+f"(product[3])
        : "r"(f.a[0]), "r"(f.a[1]), "r"(f.a[2]), "r"(f.a[3]), "r"(b0), "r"(b1));
#else
    for (int i = 0; i < 2; ++i)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(product[0]), "+f"(product[1]), "+f"(product[2]), "+f"(product[3])
            : "r"(f.a[2 * i]), "r"(f.a[2 * i + 1]), "r"(i ? b1 : b0));
#endif
}
#endif
