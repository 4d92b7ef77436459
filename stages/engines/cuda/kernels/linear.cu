// A linear layer over tokens with what stands before and after it, so that nothing in between is written to memory:
// x -> [normalise] -> times w -> [+ bias] -> [activation] -> [+ residual] -> [normalise] -> out, [out + position].
//
// x [B, IMAGE_ROWS, STRIDE], of which rows FIRST to FIRST + ROWS and the first DEPTH columns are read; w [COLUMNS, DEPTH],
// or [B, COLUMNS, DEPTH] with BATCHED. With ROW_CONSTANT column DEPTH of x is added to the row. out and residual are
// [B, ROWS, COLUMNS], position [ROWS, COLUMNS], the rest [COLUMNS]; all of type T, sums are formed in float32.
//
// With PATCHES x is a picture's tokens, [B, PLANE_H * PLANE_W, STRIDE], and a row is made of neighbours, with zeros beyond
// the picture: of 2, the upper left, lower left, upper right and lower right of each 2 x 2, DEPTH = 4 * STRIDE; of 3, the
// 3 x 3 around each token, row by row, DEPTH = 9 * STRIDE.
//
// Normalising comes first by its definition turned around: with gains and shifts already in w and bias, and sums those of
// w's rows, (x - mean) / deviation * w = (x w - mean * sums) / deviation.
//
// A block makes a tile of TILE_M rows and TILE_N columns. Where COLUMNS are more than that and are to be normalised, or
// the products are shared out to SPLIT blocks to have enough of them, blocks write `partial` [SPLIT, B, ROWS, COLUMNS]
// and `finish` does the rest. Defined by the caller: all in capitals.

#include "types.cuh"
#if WGMMA
#include "wgmma.cuh"
#endif

struct Arguments {
    const T *x, *weight, *bias, *sums, *residual, *scale, *shift, *position;
    T *out, *moved;
    float* partial;
};

#define ARGUMENTS                                                                                                        \
    const T *x, const T *weight, const T *__restrict__ bias, const T *__restrict__ sums, const T *residual,              \
        const T *__restrict__ scale, const T *__restrict__ shift, const T *__restrict__ position, T *__restrict__ out,   \
        T *__restrict__ moved, float *partial

// GELU by its definition. For half precision by a minimax polynomial for the normal distribution between -4.4 and 4.4, beyond
// which it is 0 and 1: GELU is off by 4.5e-5 at most, as much as half precision is near 0.1.
__device__ inline float gelu(float x) {
#if HALF
    constexpr float FACTORS[] = {3.56959481e-11f, -3.75419035e-9f, 1.74089705e-7f,  -4.72496129e-6f, 8.42940131e-5f,
                                 -1.05499862e-3f, 9.64304832e-3f,  -6.60764616e-2f, 3.98761625e-1f};
    const float z = fminf(fmaxf(x, -4.4f), 4.4f), square = z * z;
    float sum = FACTORS[0];
#pragma unroll
    for (int i = 1; i < 9; ++i) sum = sum * square + FACTORS[i];
    return x * (0.5f + z * sum);
#else
    return 0.5f * x * (1 + erff(x * 0.70710678f));
#endif
}

// There is room beside the blocks of a layer of so few rows.
constexpr bool FEW = IMAGES * ROWS <= 128;

// With PATCHES a row's patch is at APART times the row's place among PATCHES_W, and so far down and to the right of that is
// the token that a column is of.
constexpr int APART = PATCHES == 2 ? 2 : 1, PATCHES_W = PATCHES ? (PLANE_W + APART - 1) / APART : 1;

struct Neighbour {
    int down, right;
    __device__ explicit Neighbour(int column) {
        const int at = column / STRIDE;
        down = PATCHES == 2 ? at % 2 : at / 3 - 1, right = PATCHES == 2 ? at / 2 : at % 3 - 1;
    }
};

// What a product of a row and a column meets on its way.
struct Around {
    float sum, bias, constant, residual;
};

// `row` counts over all images, x_row is where it begins in x.
__device__ inline Around around(const Arguments& a, const T* x_row, size_t row, int column) {
    return {NORMALIZE ? to_float(a.sums[column]) : 0, BIAS ? to_float(a.bias[column]) : 0,
            ROW_CONSTANT ? to_float(x_row[DEPTH]) : 0, RESIDUAL ? to_float(a.residual[row * COLUMNS + column]) : 0};
}

// What follows the product, up to the last normalisation. Normalising before it is times `inverse` and plus `offset` times the
// weights' sum.
__device__ inline float complete(float value, const Around& with, float inverse, float offset) {
    if (NORMALIZE) value = value * inverse + (offset * with.sum + with.bias);
    if (!NORMALIZE && BIAS) value += with.bias;
    if (ROW_CONSTANT) value += with.constant;
    if (ACTIVATION == 1) value = fmaxf(value, 0);
    if (ACTIVATION == 2) value = gelu(value);
    if (RESIDUAL) value += with.residual;
    return value;
}

// Writes a finished value, already rounded.
__device__ inline void store(T value, const Arguments& a, size_t row, int column) {
    a.out[row * COLUMNS + column] = value;
    if (POSITION)
        a.moved[row * COLUMNS + column] =
            from_float(to_float(value) + to_float(a.position[row % ROWS * COLUMNS + column]));
}

#if HALF
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int STEP = WGMMA ? 64 : 32;          // columns of x and w that are worked on at a time
constexpr int WIDE = WGMMA ? STEP : STEP + 8;  // rows in shared memory, apart from one another's banks
constexpr int STAGE = (TILE_M + TILE_N) * WIDE;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int VECTORS = STEP / VECTOR, ROUND = THREADS / VECTORS;  // of a row in a stage, and rows copied at once
constexpr int STEPS = (DEPTH + STEP - 1) / STEP, SHARE = (STEPS + SPLIT - 1) / SPLIT;
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp's tile is of whole fragments");
static_assert(ROUND % 8 == 0, "the rounds have one order of vectors");
static_assert(DEPTH % VECTOR == 0 && STRIDE % VECTOR == 0, "rows must fill vectors of 16 bytes");
static_assert(TILE_M * (TILE_N + 8) <= STAGES * STAGE, "the finished tile must fit");

// Where a value of a tile is in shared memory: apart from its neighbours' banks by longer rows, or as wgmma.cuh says.
__device__ inline int place(int row, int column) {
    return row * WIDE + (WGMMA ? column ^ row % 8 * VECTOR : column);
}

__device__ inline void copy(T* to, const T* from, bool real) {
    const unsigned address = unsigned(__cvta_generic_to_shared(to));
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(real ? 16 : 0));
#else
    (real ? Pack(from) : Pack()).write(to);
#endif
}

__device__ inline void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

template <int LEFT>
__device__ inline void await() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
#endif
}

// Sum over the four lanes that share a row of a fragment.
__device__ inline float over_row(float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
}

// Sums of rows of x and of their squares, by the tensor cores: times a matrix of ones, and the diagonal of x times itself.
// The warps of a row of warps share its fragments out.
constexpr int OWN = (WARP_M / 16 + WARPS_N - 1) / WARPS_N;

struct Moments {
    float sums[4] = {}, squares[2][4] = {};
    __device__ void add(const Fragment& rows) {
        constexpr unsigned ONES = 0x3c003c00;
        multiply(sums, rows, ONES, ONES);
        multiply(squares[0], rows, rows.a[0], rows.a[2]);
        multiply(squares[1], rows, rows.a[1], rows.a[3]);
    }
};

// Two neighbours of COLUMNS values, or the last ones instead of those beyond.
struct Two {
    float each[2] = {};
    __device__ Two(const T* from, int column, bool there) {
        if (!there) return;
        if (COLUMNS % 2 == 0) {
            const unsigned both = word(from + min(column, COLUMNS - 2));
            each[0] = to_float({(unsigned short)(both)}), each[1] = to_float({(unsigned short)(both >> 16)});
        } else {
            for (int k = 0; k < 2; ++k) each[k] = to_float(from[min(column + k, COLUMNS - 1)]);
        }
    }
};

// Several blocks on a multiprocessor hide one another's waits.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear(ARGUMENTS) {
    extern __shared__ int4 memory[];
    constexpr size_t ALIGNED = WGMMA ? 1024 : 16;
    T* const stages = reinterpret_cast<T*>((reinterpret_cast<size_t>(memory) + ALIGNED - 1) / ALIGNED * ALIGNED);
    const Arguments all = {x, weight, bias, sums, residual, scale, shift, position, out, moved, partial};
    const int first_column = blockIdx.x * TILE_N, first_row = blockIdx.y * TILE_M;
    const int image = blockIdx.z / SPLIT, slice = blockIdx.z % SPLIT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // wgmma shares rows out to four warps in a row.
    const int down = WGMMA ? warp / 4 / WARPS_N * 4 + warp % 4 : warp / WARPS_N;
    const int across = (WGMMA ? warp / 4 : warp) % WARPS_N, warp_m = down * WARP_M, warp_n = across * WARP_N;
    x += (size_t(image) * IMAGE_ROWS + FIRST) * STRIDE;
    if (BATCHED) weight += size_t(image) * COLUMNS * DEPTH;
    const int begin = slice * SHARE, end = min(begin + SHARE, STEPS);

    // Each thread copies the same vector of every ROUND-th row. What lies beyond rows and columns is not read.
    const int own_row = threadIdx.x / VECTORS, own_column = threadIdx.x % VECTORS * VECTOR;
    T* const own_stage = stages + place(own_row, own_column);
    const T* const own_x = x + size_t(first_row + own_row) * STRIDE + own_column;
    const T* const own_weight = weight + size_t(first_column + own_row) * DEPTH + own_column;
    const auto load_x = [&](int step) {
        const int column = step * STEP + own_column;
        const Neighbour to(column);
#pragma unroll
        for (int i = 0; i < TILE_M; i += ROUND) {
            if (TILE_M % ROUND && i + own_row >= TILE_M) continue;
            const int row = first_row + own_row + i, y = row / PATCHES_W * APART + to.down;
            const int z = row % PATCHES_W * APART + to.right;
            bool real = row < ROWS && (DEPTH % STEP == 0 || column < DEPTH);
            const T* from = own_x + i * STRIDE + step * STEP;
            if (PATCHES) {
                real &= 0 <= y && y < PLANE_H && 0 <= z && z < PLANE_W;
                from = x + (y * PLANE_W + z) * STRIDE + column % STRIDE;
            }
            copy(own_stage + step % STAGES * STAGE + i * WIDE, from, real);
        }
    };
    const auto load_weight = [&](int step) {
#pragma unroll
        for (int i = 0; i < TILE_N; i += ROUND) {
            if (TILE_N % ROUND && i + own_row >= TILE_N) continue;
            const bool real = first_column + own_row + i < COLUMNS;
            copy(own_stage + step % STAGES * STAGE + (TILE_M + i) * WIDE, own_weight + i * DEPTH + step * STEP,
                 real && (DEPTH % STEP == 0 || step * STEP + own_column < DEPTH));
        }
    };
    const auto load = [&](int step) {
        if (step < end) load_x(step), load_weight(step);
        commit();
    };

    float products[WARP_M / 16][WARP_N / 8][4] = {};
    Moments moments[NORMALIZE ? OWN : 1];
    // Unless there is room for all, wgmma has two stages that are not loaded ahead: one that is worked on, and one that the
    // tensor cores may still read.
    constexpr int AHEAD = STAGES >= SHARE ? SHARE : WGMMA ? STAGES - 2 : STAGES - 1;
    if (FEW) lead();
    // Weights are constants: they need not wait.
#pragma unroll
    for (int i = begin; i < begin + AHEAD; ++i)
        if (!BATCHED && i < end) load_weight(i);
    follow();
#pragma unroll
    for (int i = begin; i < begin + AHEAD; ++i) {
        if (i < end) load_x(i);
        if (BATCHED && i < end) load_weight(i);
        commit();
    }
#if WGMMA
    for (int step = begin; step < end; ++step) {
        await<AHEAD - 1>();
        wgmma::see_copies();
        __syncthreads();
        const T* const stage = stages + step % STAGES * STAGE;
        const wgmma::Tile rows(stage + warp_m / 64 * 64 * WIDE), columns(stage + (TILE_M + warp_n) * WIDE);
        wgmma::begin();
#pragma unroll
        for (int k = 0; k < STEP; k += 16) wgmma::multiply<WARP_N>(products[0], rows, columns, k);
        wgmma::commit();
        if (NORMALIZE && across == 0)
#pragma unroll
            for (int k = 0; k < STEP; k += 16) {
                Fragment row;
                fetch(row.a, stage + place(warp_m + lane % 16, k + lane / 16 * 8));
                moments[0].add(row);
            }
        load(step + AHEAD);
        wgmma::await<1>();
    }
    wgmma::await<0>();
    wgmma::see(products[0]);
#else
    for (int step = begin; step < end; ++step) {
        await<AHEAD - 1>();
        __syncthreads();
        load(step + AHEAD);
        const T* const stage = stages + step % STAGES * STAGE;
        const T* const x_lane = stage + (warp_m + lane % 16) * WIDE + lane / 16 * 8;
        const T* const w_lane = stage + (TILE_M + warp_n + lane / 16 * 8 + lane % 8) * WIDE + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            Fragment rows[WARP_M / 16];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                fetch(rows[i].a, x_lane + i * 16 * WIDE + k);
                if (NORMALIZE && i % WARPS_N == across) moments[i / WARPS_N].add(rows[i]);
            }
#pragma unroll
            for (int j = 0; j < WARP_N / 16; ++j) {
                unsigned columns[4];
                fetch(columns, w_lane + j * 16 * WIDE + k);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; ++i) {
                    multiply(products[i][2 * j], rows[i], columns[0], columns[1]);
                    multiply(products[i][2 * j + 1], rows[i], columns[2], columns[3]);
                }
            }
        }
    }
#endif

    if (!FEW) lead();

    const int g = lane / 4, t = lane % 4 * 2;
    const size_t image_row = size_t(image) * ROWS;
    if (FINISH) {
        partial += (size_t(slice) * IMAGES * ROWS + image_row) * COLUMNS;
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int row = first_row + warp_m + i * 16 + g + k / 2 * 8;
                if (row >= ROWS) continue;
#pragma unroll
                for (int j = 0; j < WARP_N / 8; ++j) {
                    const int column = first_column + warp_n + j * 8 + t + k % 2;
                    if (column < COLUMNS) partial[size_t(row) * COLUMNS + column] = products[i][j][k];
                }
            }
        return;
    }

    __shared__ float inverses[NORMALIZE ? TILE_M : 1], offsets[NORMALIZE ? TILE_M : 1];
    if (NORMALIZE) {
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i) {
            if (i % WARPS_N != across) continue;
            const Moments& own = moments[i / WARPS_N];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // Each lane has two columns of a product; row and column are the same in one lane of eight.
                if (t != g / 2 * 2) continue;
                const int row = warp_m + i * 16 + g + h * 8;
                const float mean = own.sums[2 * h] / DEPTH;
                const float square = (g % 2 ? own.squares[h][2 * h + 1] : own.squares[h][2 * h]) / DEPTH;
                inverses[row] = rsqrtf(fmaxf(square - mean * mean, 0) + EPSILON);
                offsets[row] = -mean * inverses[row];
            }
        }
        __syncthreads();
    }
    // Two neighbouring columns at a time, all rows of each: what belongs to a column is read once.
#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j) {
        const int column = first_column + warp_n + j * 8 + t;
        const Two sum(sums, column, NORMALIZE), shared(bias, column, BIAS);
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int local = warp_m + i * 16 + g + h * 8, row = min(first_row + local, ROWS - 1);
                const Two more(residual + (image_row + row) * COLUMNS, column, RESIDUAL);
                const float constant = ROW_CONSTANT ? to_float(x[size_t(row) * STRIDE + DEPTH]) : 0;
                const float inverse = NORMALIZE ? inverses[local] : 0, offset = NORMALIZE ? offsets[local] : 0;
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    float& value = products[i][j][2 * h + k];
                    value = complete(value, {sum.each[k], shared.each[k], constant, more.each[k]}, inverse, offset);
                }
            }
    }

    if (NORM) {
        // The block has whole rows: their sums go from warp to warp through shared memory, first of values, then of squares.
        __shared__ float parts[2][WARPS_N][TILE_M];
        float centres[WARP_M / 16][2] = {}, inverse[WARP_M / 16][2];
#pragma unroll
        for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float sum = 0;
#pragma unroll
                    for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
                        for (int k = 0; k < 2; ++k) {
                            const float value = products[i][j][2 * h + k] - centres[i][h];
                            if (TILE_N == COLUMNS || warp_n + j * 8 + t + k < COLUMNS) sum += pass ? value * value : value;
                        }
                    sum = over_row(sum);
                    if (t == 0) parts[pass][across][warp_m + i * 16 + g + h * 8] = sum;
                }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float sum = 0;
                    for (int k = 0; k < WARPS_N; ++k) sum += parts[pass][k][warp_m + i * 16 + g + h * 8];
                    if (pass == 0) {
                        centres[i][h] = sum / COLUMNS;
                        continue;
                    }
                    inverse[i][h] = rsqrtf(sum / COLUMNS + EPSILON);
                }
        }
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j) {
            const Two by(scale, warp_n + j * 8 + t, true), plus(shift, warp_n + j * 8 + t, true);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    float& value = products[i][j][k];
                    value = (value - centres[i][k / 2]) * inverse[i][k / 2] * by.each[k % 2] + plus.each[k % 2];
                }
        }
    }

    // Through shared memory, so that memory is written in whole vectors.
    constexpr int LONG = TILE_N + 8;
    await<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < WARP_N / 8; ++j)
                *reinterpret_cast<unsigned*>(stages + (warp_m + i * 16 + g + h * 8) * LONG + warp_n + j * 8 + t) =
                    pack(products[i][j][2 * h], products[i][j][2 * h + 1]);
    __syncthreads();
    for (int at = threadIdx.x; at < TILE_M * (TILE_N / VECTOR); at += THREADS) {
        const int row = at / (TILE_N / VECTOR), column = at % (TILE_N / VECTOR) * VECTOR;
        if (first_row + row >= ROWS) continue;
        const T* const from = stages + row * LONG + column;
        const size_t to = image_row + first_row + row;
        if (COLUMNS % VECTOR == 0) {
            if (first_column + column >= COLUMNS) continue;
            *reinterpret_cast<int4*>(out + to * COLUMNS + first_column + column) = *reinterpret_cast<const int4*>(from);
            if (POSITION) {
                const Pack place(position + size_t(first_row + row) * COLUMNS + first_column + column);
                Pack sum;
#pragma unroll
                for (int k = 0; k < VECTOR; k += 2) add_two(sum.each + k, from + k, place.each + k);
                sum.write(moved + to * COLUMNS + first_column + column);
            }
        } else {
            for (int k = 0; k < VECTOR && first_column + column + k < COLUMNS; ++k)
                store(from[k], all, to, first_column + column + k);
        }
    }
}
#else
// Plain arithmetic: 16 x 16 threads of 4 x 4 products.
constexpr int THREADS = 256, STEP = 16;
static_assert(TILE_M == 64 && TILE_N == 64, "");

extern "C" __global__ void __launch_bounds__(THREADS) linear(ARGUMENTS) {
    if (FEW) lead();
    follow();
    __shared__ float rows[STEP][TILE_M + 4], columns[STEP][TILE_N + 4];
    const Arguments all = {x, weight, bias, sums, residual, scale, shift, position, out, moved, partial};
    const int first_column = blockIdx.x * TILE_N, first_row = blockIdx.y * TILE_M, image = blockIdx.z / SPLIT;
    const int slice = blockIdx.z % SPLIT, share = (DEPTH + SPLIT - 1) / SPLIT;
    const int down = threadIdx.x / 16 * 4, across = threadIdx.x % 16 * 4;
    x += (size_t(image) * IMAGE_ROWS + FIRST) * STRIDE;
    if (BATCHED) weight += size_t(image) * COLUMNS * DEPTH;
    float products[4][4] = {}, totals[4] = {}, squares[4] = {};
    const int last = min((slice + 1) * share, DEPTH);
    for (int k = slice * share; k < last; k += STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < STEP * TILE_M; i += THREADS) {
            const int row = i / STEP, column = k + i % STEP;
            const bool there = column < last;
            const Neighbour to(column);
            const int at = first_row + row, y = at / PATCHES_W * APART + to.down, z = at % PATCHES_W * APART + to.right;
            const bool real = there && at < ROWS && (!PATCHES || (0 <= y && y < PLANE_H && 0 <= z && z < PLANE_W));
            const size_t from = PATCHES ? size_t(y * PLANE_W + z) * STRIDE + column % STRIDE : size_t(at) * STRIDE + column;
            rows[i % STEP][row] = real ? x[from] : 0;
            columns[i % STEP][row] =
                there && first_column + row < COLUMNS ? weight[size_t(first_column + row) * DEPTH + column] : 0;
        }
        __syncthreads();
        for (int step = 0; step < STEP; ++step)
            for (int i = 0; i < 4; ++i) {
                const float value = rows[step][down + i];
                totals[i] += value, squares[i] += value * value;
                for (int j = 0; j < 4; ++j) products[i][j] += value * columns[step][across + j];
            }
    }
    if (!FEW) lead();
    const size_t image_row = size_t(image) * ROWS;
    if (FINISH) partial += (size_t(slice) * IMAGES * ROWS + image_row) * COLUMNS;
    for (int i = 0; i < 4; ++i) {
        const int row = first_row + down + i;
        if (row >= ROWS) continue;
        const float mean = totals[i] / DEPTH, inverse = rsqrtf(fmaxf(squares[i] / DEPTH - mean * mean, 0) + EPSILON);
        for (int j = 0; j < 4; ++j) {
            const int column = first_column + across + j;
            if (column >= COLUMNS) continue;
            if (FINISH)
                partial[size_t(row) * COLUMNS + column] = products[i][j];
            else
                store(from_float(complete(products[i][j], around(all, x + size_t(row) * STRIDE, image_row + row, column),
                                          inverse, -mean * inverse)),
                      all, image_row + row, column);
        }
    }
}
#endif

#if FINISH
// A warp for each row, over all images.
extern "C" __global__ void finish(ARGUMENTS) {
    lead();
    follow();
    const Arguments all = {x, weight, bias, sums, residual, scale, shift, position, out, moved, partial};
    const int lane = threadIdx.x % 32;
    const size_t row = size_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= IMAGES * ROWS) return;
    const T* const x_row = x + (row / ROWS * IMAGE_ROWS + FIRST + row % ROWS) * STRIDE;
    constexpr int EACH = (COLUMNS + 31) / 32;
    float values[EACH], sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int column = lane + 32 * i;
        values[i] = 0;
        if (column >= COLUMNS) continue;
#pragma unroll
        for (int k = 0; k < SPLIT; ++k) values[i] += partial[(size_t(k) * IMAGES * ROWS + row) * COLUMNS + column];
        values[i] = complete(values[i], around(all, x_row, row, column), 0, 0);
        sum += values[i];
    }
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    const float mean = sum / COLUMNS;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        if (lane + 32 * i < COLUMNS) square += (values[i] - mean) * (values[i] - mean);
    for (int step = 16; step; step /= 2) square += __shfl_xor_sync(~0u, square, step);
    const float inverse = rsqrtf(square / COLUMNS + EPSILON);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int column = lane + 32 * i;
        if (column >= COLUMNS) continue;
        if (NORM) values[i] = (values[i] - mean) * inverse * to_float(scale[column]) + to_float(shift[column]);
        store(from_float(values[i]), all, row, column);
    }
}
#endif
