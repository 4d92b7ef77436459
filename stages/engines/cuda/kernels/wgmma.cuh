// Hopper's tensor core instructions, which four warps start together and which read both factors from shared memory (PTX
// ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// A factor lies in shared memory in rows of 64 halves. The vectors of 16 bytes of row r are in the order (vector ^ r % 8), the
// instructions' 128-byte swizzle. A warp has 16 rows of the product, spread over it as by `multiply` of types.cuh.

namespace wgmma {

// Makes what cp.async has copied visible to the instructions.
__device__ inline void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int LEFT>
__device__ inline void wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from reading products before `wait`.
template <int TILES>
__device__ inline void fence_products(float (&products)[TILES][4]) {
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) asm volatile("" : "+f"(products[j][k])::"memory");
}

// The descriptor of a factor in shared memory ("Matrix Descriptor Format"), from a row that is a multiple of 8.
struct Descriptor {
    unsigned long long descriptor;
    __device__ explicit Descriptor(const T* first_row) {
        constexpr unsigned long long SWIZZLE_128 = 1ull << 62, ROWS_OF_8 = 1024 / 16;
        const unsigned address = unsigned(__cvta_generic_to_shared(first_row));
        descriptor = SWIZZLE_128 | ROWS_OF_8 << 32 | 1ull << 16 | (address & 0x3ffff) / 16;
    }
    // The same from another column, a multiple of 16 below 64, or another row, a multiple of 8.
    __device__ unsigned long long at(int row, int column) const { return descriptor + row * 8 + column / 8; }
};

#define D(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define D_64 D(0), D(1), D(2), D(3), D(4), D(5), D(6), D(7)
#define D_96 D_64, D(8), D(9), D(10), D(11)
#define D_128 D_96, D(12), D(13), D(14), D(15)
#define R_64                                                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define R_96 R_64 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define R_128 R_96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// The predicate makes the instruction add to its result.
#define MMA_ASYNC(WIDTH, A, B, YES)                                                                             \
    asm volatile("{.reg .pred add; setp.ne.b32 add, %" YES ", 0; wgmma.mma_async.sync.aligned.m64n" #WIDTH    \
                 "k16.f32.f16.f16 {" R_##WIDTH "}, %" A ", %" B ", add, 1, 1, 0, 0;}"                       \
                 : D_##WIDTH                                                                                \
                 : "l"(a), "l"(b), "r"(1))

// d += a * b, of 64 rows, 16 of them in each warp, and 64, 96 or 128 columns.
template <int WIDTH>
__device__ inline void mma_async(float (*d)[4], unsigned long long a, unsigned long long b) {
    if constexpr (WIDTH == 64) MMA_ASYNC(64, "32", "33", "34");
    if constexpr (WIDTH == 96) MMA_ASYNC(96, "48", "49", "50");
    if constexpr (WIDTH == 128) MMA_ASYNC(128, "64", "65", "66");
}

// products += 64 rows times WIDTH rows of the other factor, over the 16 columns from k on.
template <int WIDTH>
__device__ inline void multiply(float (&products)[WIDTH / 8][4], const Descriptor& rows, const Descriptor& columns, int k) {
    constexpr int EACH = WIDTH % 128 == 0 ? 128 : WIDTH % 96 == 0 ? 96 : 64;
#pragma unroll
    for (int first = 0; first < WIDTH; first += EACH)
        mma_async<EACH>(products + first / 8, rows.at(0, k), columns.at(first, k));
}

}  // namespace wgmma
