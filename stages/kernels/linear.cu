// A linear layer over tokens with what stands before and after it, so that nothing in between is written to memory:
// x -> [normalise] -> times w -> [+ bias] -> [activation] -> [+ residual] -> [normalise] -> out, [out + position].
//
// x [B, IMAGE_ROWS, STRIDE], of which rows FIRST to FIRST + ROWS and the first DEPTH columns are read; w [COLUMNS, DEPTH],
// or [B, COLUMNS, DEPTH] with BATCHED. With ROW_CONSTANT column DEPTH of x is added to the row. out and residual are
// [B, ROWS, COLUMNS], position [ROWS, COLUMNS], the rest [COLUMNS]; all of type T, sums are formed in float32.
//
// With PATCHES x is a picture's tokens, [B, PLANE_H * PLANE_W, STRIDE], and a row is made of four neighbours, DEPTH = 4 *
// STRIDE: the upper left, lower left, upper right and lower right of 2 x 2, with zeros beyond the picture.
//
// Normalising comes first by its definition turned around: with gains and shifts already in w and bias, and sums those of
// w's rows, (x - mean) / deviation * w = (x w - mean * sums) / deviation.
//
// A block makes a tile of TILE_M rows and TILE_N columns. Where COLUMNS are more than that and are to be normalised, or
// the products are shared out to SPLIT blocks to have enough of them, blocks write `partial` [SPLIT, B, ROWS, COLUMNS]
// and `finish` does the rest. Defined by the caller: all in capitals.

#include "types.cuh"

struct Arguments {
    const T *x, *weight, *bias, *sums, *residual, *scale, *shift, *position;
    T *out, *moved;
    float* partial;
};

#define ARGUMENTS                                                                                                        \
    const T *__restrict__ x, const T *__restrict__ weight, const T *__restrict__ bias, const T *__restrict__ sums,       \
        const T *__restrict__ residual, const T *__restrict__ scale, const T *__restrict__ shift,                        \
        const T *__restrict__ position, T *__restrict__ out, T *__restrict__ moved, float *__restrict__ partial

// GELU by its definition. For half precision erf is that of Abramowitz and Stegun, 7.1.26, which is off by 1.5e-7 at most.
__device__ inline float gelu(float x) {
    const float z = fabsf(x) * 0.70710678f;
#if HALF
    const float t = __fdividef(1, 1 + 0.3275911f * z);
    const float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return 0.5f * x * (1 + copysignf(1 - series * __expf(-z * z), x));
#else
    return 0.5f * x * (1 + copysignf(erff(z), x));
#endif
}

// Where a row of x begins, and with PATCHES where its column is from there, and whether that is in the picture.
constexpr int PATCHES_W = PATCHES ? (PLANE_W + 1) / 2 : 1;

__device__ inline size_t x_start(int row) {
    return PATCHES ? (size_t(row / PATCHES_W) * 2 * PLANE_W + row % PATCHES_W * 2) * STRIDE : size_t(row) * STRIDE;
}

__device__ inline int patch_offset(int column) {
    const int corner = column / STRIDE;
    return (corner % 2 * PLANE_W + corner / 2) * STRIDE + column % STRIDE;
}

__device__ inline bool in_picture(int row, int column) {
    const int corner = column / STRIDE;
    return row / PATCHES_W * 2 + corner % 2 < PLANE_H && row % PATCHES_W * 2 + corner / 2 < PLANE_W;
}

// What follows the product of a row and a column, up to the last normalisation. `row` counts over all images.
__device__ inline float complete(float value, const Arguments& a, const T* x_row, size_t row, int column, float mean,
                                 float inverse) {
    if (NORMALIZE) value = (value - mean * to_float(a.sums[column])) * inverse;
    if (BIAS) value += to_float(a.bias[column]);
    if (ROW_CONSTANT) value += to_float(x_row[DEPTH]);
    if (ACTIVATION == 1) value = fmaxf(value, 0);
    if (ACTIVATION == 2) value = gelu(value);
    if (RESIDUAL) value += to_float(a.residual[row * COLUMNS + column]);
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
constexpr int STEP = 32;        // columns of x and w that are worked on at a time
constexpr int WIDE = STEP + 8;  // rows in shared memory, apart from one another's banks
constexpr int STAGE = (TILE_M + TILE_N) * WIDE;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int LOADS = ((TILE_M + TILE_N) * (STEP / VECTOR) + THREADS - 1) / THREADS;
constexpr int STEPS = (DEPTH + STEP - 1) / STEP, SHARE = (STEPS + SPLIT - 1) / SPLIT;
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp's tile is of whole fragments");
static_assert(DEPTH % VECTOR == 0 && STRIDE % VECTOR == 0, "rows must fill vectors of 16 bytes");
static_assert(TILE_M * (TILE_N + 8) <= STAGES * STAGE, "the finished tile must fit");

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

// Four 8 x 8 tiles, one row from each lane's address, as `multiply` takes them.
__device__ inline void fetch(unsigned (&tiles)[4], const T* row) {
    const unsigned address = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address));
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

// Two blocks of eight warps on a multiprocessor hide one another's waits.
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) linear(ARGUMENTS) {
    extern __shared__ int4 memory[];
    T* const stages = reinterpret_cast<T*>(memory);
    const Arguments all = {x, weight, bias, sums, residual, scale, shift, position, out, moved, partial};
    const int first_column = blockIdx.x * TILE_N, first_row = blockIdx.y * TILE_M;
    const int image = blockIdx.z / SPLIT, slice = blockIdx.z % SPLIT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_m = warp / WARPS_N * WARP_M, warp_n = warp % WARPS_N * WARP_N;
    x += (size_t(image) * IMAGE_ROWS + FIRST) * STRIDE;
    if (BATCHED) weight += size_t(image) * COLUMNS * DEPTH;
    const int begin = slice * SHARE, end = min(begin + SHARE, STEPS);

    // Where this thread reads and writes in each step.
    const T* sources[LOADS];
    bool inside[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        const int at = i * THREADS + threadIdx.x, row = at / (STEP / VECTOR), column = at % (STEP / VECTOR) * VECTOR;
        const bool of_x = row < TILE_M;
        const int global = of_x ? first_row + row : first_column + row - TILE_M;
        inside[i] = row < TILE_M + TILE_N && global < (of_x ? ROWS : COLUMNS);
        const size_t start = of_x ? x_start(global) : size_t(global) * DEPTH;
        sources[i] = (of_x ? x : weight) + (inside[i] ? start : 0) + (of_x && PATCHES ? 0 : column);
    }
    const auto load = [&](int step) {
        T* const stage = stages + step % STAGES * STAGE;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int at = i * THREADS + threadIdx.x, row = at / (STEP / VECTOR), column = at % (STEP / VECTOR) * VECTOR;
            if ((TILE_M + TILE_N) * (STEP / VECTOR) % THREADS && row >= TILE_M + TILE_N) continue;
            bool real = inside[i] && (DEPTH % STEP == 0 || step * STEP + column < DEPTH);
            int offset = step * STEP;
            if (PATCHES && row < TILE_M) {
                real &= in_picture(first_row + row, step * STEP + column);
                offset = patch_offset(step * STEP + column);
            }
            copy(stage + row * WIDE + column, real ? sources[i] + offset : x, real);
        }
    };

    float products[WARP_M / 16][WARP_N / 8][4] = {};
    Moments moments[NORMALIZE ? OWN : 1];
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
        if (begin + i < end) load(begin + i);
        commit();
    }
    for (int step = begin; step < end; ++step) {
        await<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < end) load(step + STAGES - 1);
        commit();
        const T* const stage = stages + step % STAGES * STAGE;
        const T* const x_lane = stage + (warp_m + lane % 16) * WIDE + lane / 16 * 8;
        const T* const w_lane = stage + (TILE_M + warp_n + lane / 16 * 8 + lane % 8) * WIDE + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            Fragment rows[WARP_M / 16];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                fetch(rows[i].a, x_lane + i * 16 * WIDE + k);
                if (NORMALIZE && i % WARPS_N == warp % WARPS_N) moments[i / WARPS_N].add(rows[i]);
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

    __shared__ float means[NORMALIZE ? TILE_M : 1], inverses[NORMALIZE ? TILE_M : 1];
    if (NORMALIZE) {
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i) {
            if (i % WARPS_N != warp % WARPS_N) continue;
            const Moments& own = moments[i / WARPS_N];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // Each lane has two columns of a product; row and column are the same in one lane of eight.
                if (t != g / 2 * 2) continue;
                const int row = warp_m + i * 16 + g + h * 8;
                const float mean = own.sums[2 * h] / DEPTH;
                const float square = (g % 2 ? own.squares[h][2 * h + 1] : own.squares[h][2 * h]) / DEPTH;
                means[row] = mean;
                inverses[row] = rsqrtf(fmaxf(square - mean * mean, 0) + EPSILON);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int local = warp_m + i * 16 + g + h * 8, row = min(first_row + local, ROWS - 1);
            const float mean = NORMALIZE ? means[local] : 0, inverse = NORMALIZE ? inverses[local] : 0;
#pragma unroll
            for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const int column = min(first_column + warp_n + j * 8 + t + k, COLUMNS - 1);
                    float& value = products[i][j][2 * h + k];
                    value = complete(value, all, x + size_t(row) * STRIDE, image_row + row, column, mean, inverse);
                }
        }

    if (NORM) {
        // The block has whole rows: their sums go from warp to warp through shared memory, first of values, then of squares.
        __shared__ float parts[2][WARPS_N][TILE_M];
        float centres[WARP_M / 16][2] = {};
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
                            if (warp_n + j * 8 + t + k < COLUMNS) sum += pass ? value * value : value;
                        }
                    sum = over_row(sum);
                    if (t == 0) parts[pass][warp % WARPS_N][warp_m + i * 16 + g + h * 8] = sum;
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
                    const float inverse = rsqrtf(sum / COLUMNS + EPSILON);
#pragma unroll
                    for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
                        for (int k = 0; k < 2; ++k) {
                            const int column = min(warp_n + j * 8 + t + k, COLUMNS - 1);
                            float& value = products[i][j][2 * h + k];
                            value = (value - centres[i][h]) * inverse * to_float(scale[column]) + to_float(shift[column]);
                        }
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
                for (int k = 0; k < VECTOR; ++k) sum.each[k] = from_float(to_float(from[k]) + to_float(place.each[k]));
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
            const bool real = there && first_row + row < ROWS && (!PATCHES || in_picture(first_row + row, column));
            rows[i % STEP][row] = real ? x[x_start(first_row + row) + (PATCHES ? patch_offset(column) : column)] : 0;
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
                store(from_float(complete(products[i][j], all, x + size_t(row) * STRIDE, image_row + row, column, mean,
                                          inverse)),
                      all, image_row + row, column);
        }
    }
}
#endif

#if FINISH
// A warp for each row, over all images.
extern "C" __global__ void finish(ARGUMENTS) {
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
        values[i] = complete(values[i], all, x_row, row, column, 0, 0);
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
