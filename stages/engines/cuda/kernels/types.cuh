// Types and building blocks of all kernels. T is float32 or, with HALF, float16. CUDA's header files are not used, since a
// machine with NVRTC may lack them.

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

constexpr int VECTOR = 16 / sizeof(T);  // values in 16 bytes

// 16 bytes, which one instruction reads or writes.
struct alignas(16) Pack {
    T each[VECTOR];
    __device__ Pack() { *reinterpret_cast<int4*>(each) = make_int4(0, 0, 0, 0); }
    __device__ explicit Pack(const T* from) {
        *reinterpret_cast<int4*>(each) = *reinterpret_cast<const int4*>(from);
    }
    __device__ void write(T* to) const { *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(each); }
};

// Bilinear interpolation along one axis, as PyTorch's with align_corners=False: the two source pixels and their weights.
struct Interpolation {
    int low, high;
    float share;  // weight of `high`
    __device__ Interpolation(int to, int to_size, int from_size) {
        const float at = fmaxf((to + 0.5f) * (float(from_size) / to_size) - 0.5f, 0.f);
        low = min(int(at), from_size - 1);
        high = min(low + 1, from_size - 1);
        share = at - low;
    }
};

// A kernel is launched before the previous one has ended, where the GPU can ("Programmatic Dependent Launch" in the CUDA C++
// Programming Guide). After `wait_for_predecessor` all writes of the previous kernel are done and visible. Each thread calls
// it before it reads or writes any tensor that is not a constant. The next kernel is launched once all blocks have called
// `launch_dependents`: near the end, because its blocks take room, or at the start of a kernel that leaves enough. A tensor
// that another kernel writes must not be `const __restrict__`, which promises that it does not change after the launch.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

#if HALF
// Two neighbouring values in one register, as the tensor cores take them.
__device__ inline unsigned load_pair(const T* from) { return *reinterpret_cast<const unsigned*>(from); }

__device__ inline unsigned pack_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return unsigned(from_float(high).bits) << 16 | from_float(low).bits;
#endif
}

// to = a + b, for two neighbouring values each.
__device__ inline void add_pairs(T* to, const T* a, const T* b) {
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(*reinterpret_cast<unsigned*>(to)) : "r"(load_pair(a)), "r"(load_pair(b)));
}

// A 16 x 16 tile, spread over a warp as mma.m16n8k16 takes its first factor (PTX ISA, "Matrix Fragments"): lane 4 * g + t / 2
// has columns t, t + 1, t + 8 and t + 9 of rows g and g + 8.
struct Fragment {
    unsigned a[4];
    __device__ Fragment() {}
    // From two neighbouring 16 x 8 products.
    __device__ Fragment(const float (&left)[4], const float (&right)[4])
        : a{pack_pair(left[0], left[1]), pack_pair(left[2], left[3]), pack_pair(right[0], right[1]),
            pack_pair(right[2], right[3])} {}
};

// product += a * b. The product is a 16 x 8 tile, of which a lane has columns t and t + 1 of rows g and g + 8. b0 and b1 are
// rows t, t + 1 and t + 8, t + 9 of column g of the second factor.
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

// Loads four 8 x 8 tiles from shared memory, one row from each lane's address, as `multiply` takes them; below, transposed.
__device__ inline void load_matrix(unsigned (&tiles)[4], const T* row) {
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address));
}

__device__ inline void load_matrix_transposed(unsigned (&tiles)[4], const T* row) {
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address));
}

// The attention of a warp's 16 queries takes three functions. Queries, keys and values are rows of ROW_LENGTH in shared memory,
// tiles are spread over the warp as `multiply` has them. `score` multiplies queries and TILES * 8 keys of PADDED_DEPTH
// channels, a multiple of 16.
template <int PADDED_DEPTH, int TILES, int ROW_LENGTH>
__device__ inline void score(float (&scores)[TILES][4], const T (*queries)[ROW_LENGTH], const T (*keys)[ROW_LENGTH],
                             int lane) {
#pragma unroll
    for (int k = 0; k < PADDED_DEPTH; k += 16) {
        Fragment a;
        load_matrix(a.a, &queries[lane % 16][k + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            unsigned columns[4];
            load_matrix(columns, &keys[j * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
            multiply(scores[j], a, columns[0], columns[1]);
            multiply(scores[j + 1], a, columns[2], columns[3]);
        }
    }
}

// Turns scores into exponentials relative to the query's largest score, and adds them to `sums`. `largest` has the largest of
// this lane before, and of the query after. MAY_BE_EMPTY: a query may have no key here, and so no largest score.
template <bool MAY_BE_EMPTY, int TILES>
__device__ inline void exponentiate(float (&scores)[TILES][4], float (&largest)[2], float (&sums)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
        for (int step = 1; step < 4; step *= 2) largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], step));
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            scores[j][i] = MAY_BE_EMPTY && scores[j][i] == -INFINITY ? 0 : __expf(scores[j][i] - largest[i / 2]);
            sums[i / 2] += scores[j][i];
        }
#pragma unroll
    for (int i = 0; i < 2; ++i)
        for (int step = 1; step < 4; step *= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
}

// Adds up the keys' values, weighted by the exponentials, for OCTETS * 8 channels; OCTETS is even.
template <int OCTETS, int TILES, int ROW_LENGTH>
__device__ inline void weighted_sum(float (&total)[OCTETS][4], const float (&scores)[TILES][4],
                                    const T (*values)[ROW_LENGTH], int lane) {
#pragma unroll
    for (int k = 0; k < TILES / 2; ++k) {
        const Fragment a(scores[2 * k], scores[2 * k + 1]);
#pragma unroll
        for (int j = 0; j < OCTETS; j += 2) {
            unsigned columns[4];
            load_matrix_transposed(columns, &values[k * 16 + lane % 16][j * 8 + lane / 16 * 8]);
            multiply(total[j], a, columns[0], columns[1]);
            multiply(total[j + 1], a, columns[2], columns[3]);
        }
    }
}
#endif
