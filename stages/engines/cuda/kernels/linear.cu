// The operator Linear: a linear layer with the normalisations, the activation and the sums before and after it, so that
// nothing in between is written to memory:
// x -> [pre_norm] -> times w -> [+ bias] -> [activation] -> [+ residual] -> [post_norm] -> out, [out + pos_embed].
//
// x [B, IMAGE_ROWS, STRIDE], of which rows FIRST_ROW to FIRST_ROW + ROWS and the first DEPTH columns are read; w [COLUMNS,
// DEPTH], or [B, COLUMNS, DEPTH] with BATCHED. With ROW_CONSTANT column DEPTH of x is added to each value of its row. out
// and residual are [B, ROWS, COLUMNS], pos_embed [ROWS, COLUMNS], all others [COLUMNS]. All are of type T; sums are formed
// in float32.
//
// With GATHER x is a picture's tokens, [B, PLANE_H * PLANE_W, STRIDE], and a row of the product is made of several of them,
// with zeros beyond the picture. GATHER 2: the upper left, lower left, upper right and lower right of each 2 x 2 tokens,
// DEPTH = 4 * STRIDE. GATHER 3: the 3 x 3 tokens around each token, row by row, DEPTH = 9 * STRIDE.
//
// With PRE_NORM the gains and shifts of the LayerNorm are in w and bias already, and mean and deviation are applied after
// the product: (x - mean) / deviation * w = (x w - mean * weight_row_sums) / deviation.
//
// A block computes a tile of TILE_M rows and TILE_N columns. With EPILOGUE blocks write products, summed over a part of K
// each (split_k), to `partial` [SPLIT_K, B, ROWS, COLUMNS], and the function `epilogue` does the rest: where a block lacks
// whole rows for POST_NORM, or where there are too few tiles to keep the GPU busy. The caller defines all names in capitals.

#include "types.cuh"
#if WGMMA
#include "wgmma.cuh"
#endif

struct Arguments {
    const T *x, *weight, *bias, *weight_row_sums, *residual, *scale, *shift, *pos_embed;
    T *out, *with_pos_embed;
    float* partial;
};

#define ARGUMENTS                                                                                                      \
    const T *x, const T *weight, const T *__restrict__ bias, const T *__restrict__ weight_row_sums, const T *residual, \
        const T *__restrict__ scale, const T *__restrict__ shift, const T *__restrict__ pos_embed, T *__restrict__ out,\
        T *__restrict__ with_pos_embed, float *partial

// GELU. In half precision the normal distribution is a minimax polynomial between -4.4 and 4.4, and 0 and 1 beyond. The error
// of GELU is at most 4.5e-5, which is half precision's own near 0.1.
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

// The blocks of a layer with so few rows leave room for those of the next kernel.
constexpr bool SMALL = IMAGES * ROWS <= 128;

// With GATHER row r of the product is made of the tokens around (r / GATHERED_W, r % GATHERED_W) * SPACING. A column belongs
// to the token at this offset from there.
constexpr int SPACING = GATHER == 2 ? 2 : 1, GATHERED_W = GATHER ? (PLANE_W + SPACING - 1) / SPACING : 1;

struct TokenOffset {
    int down, right;
    __device__ explicit TokenOffset(int column) {
        const int at = column / STRIDE;
        down = GATHER == 2 ? at % 2 : at / 3 - 1, right = GATHER == 2 ? at / 2 : at % 3 - 1;
    }
};

// The operands of the epilogue of one value.
struct EpilogueOperands {
    float sum, bias, constant, residual;
};

// `row` counts over all images, x_row is where it begins in x.
__device__ inline EpilogueOperands load_operands(const Arguments& a, const T* x_row, size_t row, int column) {
    return {PRE_NORM ? to_float(a.weight_row_sums[column]) : 0, BIAS ? to_float(a.bias[column]) : 0,
            ROW_CONSTANT ? to_float(x_row[DEPTH]) : 0, RESIDUAL ? to_float(a.residual[row * COLUMNS + column]) : 0};
}

// Everything after the product up to post_norm. pre_norm is a multiplication by `inverse`, and `offset` times the row sum of
// the weights added.
__device__ inline float apply_epilogue(float value, const EpilogueOperands& with, float inverse, float offset) {
    if (PRE_NORM) value = value * inverse + (offset * with.sum + with.bias);
    if (!PRE_NORM && BIAS) value += with.bias;
    if (ROW_CONSTANT) value += with.constant;
    if (ACTIVATION == 1) value = fmaxf(value, 0);
    if (ACTIVATION == 2) value = gelu(value);
    if (RESIDUAL) value += with.residual;
    return value;
}

// Writes a value of the result, already rounded.
__device__ inline void store(T value, const Arguments& a, size_t row, int column) {
    a.out[row * COLUMNS + column] = value;
    if (POS_EMBED)
        a.with_pos_embed[row * COLUMNS + column] =
            from_float(to_float(value) + to_float(a.pos_embed[row % ROWS * COLUMNS + column]));
}

#if HALF
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int STEP = WGMMA ? 64 : 32;          // columns of x and w that a stage holds
constexpr int ROW_LENGTH = WGMMA ? STEP : STEP + 8;  // of a row in shared memory; the extra columns avoid bank conflicts
constexpr int STAGE = (TILE_M + TILE_N) * ROW_LENGTH;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int VECTORS = STEP / VECTOR, ROUND = THREADS / VECTORS;  // of a row in a stage; rows copied at once
constexpr int STEPS = (DEPTH + STEP - 1) / STEP, SLICE_STEPS = (STEPS + SPLIT_K - 1) / SPLIT_K;
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp's tile is of whole fragments");
static_assert(ROUND % 8 == 0, "the rounds have one order of vectors");
static_assert(DEPTH % VECTOR == 0 && STRIDE % VECTOR == 0, "rows must fill vectors of 16 bytes");
static_assert(TILE_M * (TILE_N + 8) <= STAGES * STAGE, "the finished tile must fit");

// Index of a value of a stage in shared memory. Longer rows avoid bank conflicts; wgmma has the order of wgmma.cuh.
__device__ inline int place(int row, int column) {
    return row * ROW_LENGTH + (WGMMA ? column ^ row % 8 * VECTOR : column);
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
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
#endif
}

// The sum over the four lanes that share a row of a fragment.
__device__ inline float over_row(float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
}

// Sums of rows of x and of their squares by the tensor cores: x times ones, and the diagonal of x times its transpose. The
// warps that have the same rows share the fragments among them.
constexpr int FRAGMENTS = (WARP_M / 16 + WARPS_N - 1) / WARPS_N;

struct Moments {
    float sums[4] = {}, squares[2][4] = {};
    __device__ void add(const Fragment& rows) {
        constexpr unsigned ONES = 0x3c003c00;
        multiply(sums, rows, ONES, ONES);
        multiply(squares[0], rows, rows.a[0], rows.a[2]);
        multiply(squares[1], rows, rows.a[1], rows.a[3]);
    }
};

// Two neighbouring values of COLUMNS; beyond the end the last ones.
struct ColumnPair {
    float each[2] = {};
    __device__ ColumnPair(const T* from, int column, bool there) {
        if (!there) return;
        if (COLUMNS % 2 == 0) {
            const unsigned both = load_pair(from + min(column, COLUMNS - 2));
            each[0] = to_float({(unsigned short)(both)}), each[1] = to_float({(unsigned short)(both >> 16)});
        } else {
            for (int k = 0; k < 2; ++k) each[k] = to_float(from[min(column + k, COLUMNS - 1)]);
        }
    }
};

// With several blocks on a multiprocessor, one computes while another waits.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear(ARGUMENTS) {
    extern __shared__ int4 memory[];
    constexpr size_t ALIGNED = WGMMA ? 1024 : 16;
    T* const stages = reinterpret_cast<T*>((reinterpret_cast<size_t>(memory) + ALIGNED - 1) / ALIGNED * ALIGNED);
    const Arguments all = {x, weight, bias, weight_row_sums, residual, scale, shift, pos_embed, out, with_pos_embed, partial};
    const int first_column = blockIdx.x * TILE_N, first_row = blockIdx.y * TILE_M;
    const int image = blockIdx.z / SPLIT_K, slice = blockIdx.z % SPLIT_K;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // wgmma gives consecutive rows to four consecutive warps.
    const int down = WGMMA ? warp / 4 / WARPS_N * 4 + warp % 4 : warp / WARPS_N;
    const int across = (WGMMA ? warp / 4 : warp) % WARPS_N, warp_m = down * WARP_M, warp_n = across * WARP_N;
    x += (size_t(image) * IMAGE_ROWS + FIRST_ROW) * STRIDE;
    if (BATCHED) weight += size_t(image) * COLUMNS * DEPTH;
    const int begin = slice * SLICE_STEPS, end = min(begin + SLICE_STEPS, STEPS);

    // Each thread copies the same vector of every ROUND-th row. Nothing is read beyond rows and columns.
    const int own_row = threadIdx.x / VECTORS, own_column = threadIdx.x % VECTORS * VECTOR;
    T* const own_stage = stages + place(own_row, own_column);
    const T* const own_x = x + size_t(first_row + own_row) * STRIDE + own_column;
    const T* const own_weight = weight + size_t(first_column + own_row) * DEPTH + own_column;
    const auto load_x = [&](int step) {
        const int column = step * STEP + own_column;
        const TokenOffset to(column);
#pragma unroll
        for (int i = 0; i < TILE_M; i += ROUND) {
            if (TILE_M % ROUND && i + own_row >= TILE_M) continue;
            const int row = first_row + own_row + i, y = row / GATHERED_W * SPACING + to.down;
            const int z = row % GATHERED_W * SPACING + to.right;
            bool real = row < ROWS && (DEPTH % STEP == 0 || column < DEPTH);
            const T* from = own_x + i * STRIDE + step * STEP;
            if (GATHER) {
                real &= 0 <= y && y < PLANE_H && 0 <= z && z < PLANE_W;
                from = x + (y * PLANE_W + z) * STRIDE + column % STRIDE;
            }
            copy(own_stage + step % STAGES * STAGE + i * ROW_LENGTH, from, real);
        }
    };
    const auto load_weight = [&](int step) {
#pragma unroll
        for (int i = 0; i < TILE_N; i += ROUND) {
            if (TILE_N % ROUND && i + own_row >= TILE_N) continue;
            const bool real = first_column + own_row + i < COLUMNS;
            copy(own_stage + step % STAGES * STAGE + (TILE_M + i) * ROW_LENGTH, own_weight + i * DEPTH + step * STEP,
                 real && (DEPTH % STEP == 0 || step * STEP + own_column < DEPTH));
        }
    };
    const auto load = [&](int step) {
        if (step < end) load_x(step), load_weight(step);
        commit();
    };

    float products[WARP_M / 16][WARP_N / 8][4] = {};
    Moments moments[PRE_NORM ? FRAGMENTS : 1];
    // Unless all steps fit, wgmma keeps two stages that are not loaded ahead: the current one, and the one before it, which the
    // tensor cores may still read.
    constexpr int STAGES_AHEAD = STAGES >= SLICE_STEPS ? SLICE_STEPS : WGMMA ? STAGES - 2 : STAGES - 1;
    static_assert(STAGES_AHEAD > 0, "a step must be loaded before it is computed");
    if (SMALL) launch_dependents();
    // Weights are constants, so they are loaded before the previous kernel has ended.
#pragma unroll
    for (int i = begin; i < begin + STAGES_AHEAD; ++i)
        if (!BATCHED && i < end) load_weight(i);
    wait_for_predecessor();
#pragma unroll
    for (int i = begin; i < begin + STAGES_AHEAD; ++i) {
        if (i < end) load_x(i);
        if (BATCHED && i < end) load_weight(i);
        commit();
    }
#if WGMMA
    for (int step = begin; step < end; ++step) {
        wait_for_copies<STAGES_AHEAD - 1>();
        wgmma::fence_copies();
        __syncthreads();
        const T* const stage = stages + step % STAGES * STAGE;
        const wgmma::Descriptor rows(stage + warp_m / 64 * 64 * ROW_LENGTH), columns(stage + (TILE_M + warp_n) * ROW_LENGTH);
        wgmma::begin();
#pragma unroll
        for (int k = 0; k < STEP; k += 16) wgmma::multiply<WARP_N>(products[0], rows, columns, k);
        wgmma::commit();
        if (PRE_NORM && across == 0)
#pragma unroll
            for (int k = 0; k < STEP; k += 16) {
                Fragment row;
                load_matrix(row.a, stage + place(warp_m + lane % 16, k + lane / 16 * 8));
                moments[0].add(row);
            }
        load(step + STAGES_AHEAD);
        wgmma::wait<1>();
    }
    wgmma::wait<0>();
    wgmma::fence_products(products[0]);
#else
    for (int step = begin; step < end; ++step) {
        wait_for_copies<STAGES_AHEAD - 1>();
        __syncthreads();
        load(step + STAGES_AHEAD);
        const T* const stage = stages + step % STAGES * STAGE;
        const T* const x_lane = stage + (warp_m + lane % 16) * ROW_LENGTH + lane / 16 * 8;
        const T* const w_lane = stage + (TILE_M + warp_n + lane / 16 * 8 + lane % 8) * ROW_LENGTH + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            Fragment rows[WARP_M / 16];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) {
                load_matrix(rows[i].a, x_lane + i * 16 * ROW_LENGTH + k);
                if (PRE_NORM && i % WARPS_N == across) moments[i / WARPS_N].add(rows[i]);
            }
#pragma unroll
            for (int j = 0; j < WARP_N / 16; ++j) {
                unsigned columns[4];
                load_matrix(columns, w_lane + j * 16 * ROW_LENGTH + k);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; ++i) {
                    multiply(products[i][2 * j], rows[i], columns[0], columns[1]);
                    multiply(products[i][2 * j + 1], rows[i], columns[2], columns[3]);
                }
            }
        }
    }
#endif

    if (!SMALL) launch_dependents();

    const int g = lane / 4, t = lane % 4 * 2;
    const size_t image_row = size_t(image) * ROWS;
    if (EPILOGUE) {
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

    __shared__ float inverses[PRE_NORM ? TILE_M : 1], offsets[PRE_NORM ? TILE_M : 1];
    if (PRE_NORM) {
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i) {
            if (i % WARPS_N != across) continue;
            const Moments& own = moments[i / WARPS_N];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // A lane has two columns of a product. One lane of eight has the diagonal's value of a row.
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
    // Two neighbouring columns at a time, with all their rows: operands of a column are read once.
#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j) {
        const int column = first_column + warp_n + j * 8 + t;
        const ColumnPair sum(weight_row_sums, column, PRE_NORM), shared(bias, column, BIAS);
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int local = warp_m + i * 16 + g + h * 8, row = min(first_row + local, ROWS - 1);
                const ColumnPair more(residual + (image_row + row) * COLUMNS, column, RESIDUAL);
                const float constant = ROW_CONSTANT ? to_float(x[size_t(row) * STRIDE + DEPTH]) : 0;
                const float inverse = PRE_NORM ? inverses[local] : 0, offset = PRE_NORM ? offsets[local] : 0;
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    float& value = products[i][j][2 * h + k];
                    value = apply_epilogue(value, {sum.each[k], shared.each[k], constant, more.each[k]}, inverse, offset);
                }
            }
    }

    if (POST_NORM) {
        // The block has whole rows. Warps exchange the rows' sums through shared memory, first of values, then of squares.
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
            const ColumnPair by(scale, warp_n + j * 8 + t, true), plus(shift, warp_n + j * 8 + t, true);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    float& value = products[i][j][k];
                    value = (value - centres[i][k / 2]) * inverse[i][k / 2] * by.each[k % 2] + plus.each[k % 2];
                }
        }
    }

    // The result goes through shared memory, so that global memory is written in whole vectors.
    constexpr int LONG = TILE_N + 8;
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < WARP_N / 8; ++j)
                *reinterpret_cast<unsigned*>(stages + (warp_m + i * 16 + g + h * 8) * LONG + warp_n + j * 8 + t) =
                    pack_pair(products[i][j][2 * h], products[i][j][2 * h + 1]);
    __syncthreads();
    for (int at = threadIdx.x; at < TILE_M * (TILE_N / VECTOR); at += THREADS) {
        const int row = at / (TILE_N / VECTOR), column = at % (TILE_N / VECTOR) * VECTOR;
        if (first_row + row >= ROWS) continue;
        const T* const from = stages + row * LONG + column;
        const size_t to = image_row + first_row + row;
        if (COLUMNS % VECTOR == 0) {
            if (first_column + column >= COLUMNS) continue;
            *reinterpret_cast<int4*>(out + to * COLUMNS + first_column + column) = *reinterpret_cast<const int4*>(from);
            if (POS_EMBED) {
                const Pack place(pos_embed + size_t(first_row + row) * COLUMNS + first_column + column);
                Pack sum;
#pragma unroll
                for (int k = 0; k < VECTOR; k += 2) add_pairs(sum.each + k, from + k, place.each + k);
                sum.write(with_pos_embed + to * COLUMNS + first_column + column);
            }
        } else {
            for (int k = 0; k < VECTOR && first_column + column + k < COLUMNS; ++k)
                store(from[k], all, to, first_column + column + k);
        }
    }
}
#else
// In float32 without tensor cores: 16 x 16 threads, 4 x 4 products each.
constexpr int THREADS = 256, STEP = 16;
static_assert(TILE_M == 64 && TILE_N == 64, "");

extern "C" __global__ void __launch_bounds__(THREADS) linear(ARGUMENTS) {
    if (SMALL) launch_dependents();
    wait_for_predecessor();
    __shared__ float rows[STEP][TILE_M + 4], columns[STEP][TILE_N + 4];
    const Arguments all = {x, weight, bias, weight_row_sums, residual, scale, shift, pos_embed, out, with_pos_embed, partial};
    const int first_column = blockIdx.x * TILE_N, first_row = blockIdx.y * TILE_M, image = blockIdx.z / SPLIT_K;
    const int slice = blockIdx.z % SPLIT_K, share = (DEPTH + SPLIT_K - 1) / SPLIT_K;
    const int down = threadIdx.x / 16 * 4, across = threadIdx.x % 16 * 4;
    x += (size_t(image) * IMAGE_ROWS + FIRST_ROW) * STRIDE;
    if (BATCHED) weight += size_t(image) * COLUMNS * DEPTH;
    float products[4][4] = {}, totals[4] = {}, squares[4] = {};
    const int last = min((slice + 1) * share, DEPTH);
    for (int k = slice * share; k < last; k += STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < STEP * TILE_M; i += THREADS) {
            const int row = i / STEP, column = k + i % STEP;
            const bool there = column < last;
            const TokenOffset to(column);
            const int at = first_row + row, y = at / GATHERED_W * SPACING + to.down, z = at % GATHERED_W * SPACING + to.right;
            const bool real = there && at < ROWS && (!GATHER || (0 <= y && y < PLANE_H && 0 <= z && z < PLANE_W));
            const size_t from = GATHER ? size_t(y * PLANE_W + z) * STRIDE + column % STRIDE : size_t(at) * STRIDE + column;
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
    if (!SMALL) launch_dependents();
    const size_t image_row = size_t(image) * ROWS;
    if (EPILOGUE) partial += (size_t(slice) * IMAGES * ROWS + image_row) * COLUMNS;
    for (int i = 0; i < 4; ++i) {
        const int row = first_row + down + i;
        if (row >= ROWS) continue;
        const float mean = totals[i] / DEPTH, inverse = rsqrtf(fmaxf(squares[i] / DEPTH - mean * mean, 0) + EPSILON);
        for (int j = 0; j < 4; ++j) {
            const int column = first_column + across + j;
            if (column >= COLUMNS) continue;
            if (EPILOGUE) {
                partial[size_t(row) * COLUMNS + column] = products[i][j];
                continue;
            }
            const EpilogueOperands with = load_operands(all, x + size_t(row) * STRIDE, image_row + row, column);
            store(from_float(apply_epilogue(products[i][j], with, inverse, -mean * inverse)), all, image_row + row, column);
        }
    }
}
#endif

#if EPILOGUE
// Adds the partial products up and does what follows them. A warp for each row of all images.
extern "C" __global__ void epilogue(ARGUMENTS) {
    launch_dependents();
    wait_for_predecessor();
    const Arguments all = {x, weight, bias, weight_row_sums, residual, scale, shift, pos_embed, out, with_pos_embed, partial};
    const int lane = threadIdx.x % 32;
    const size_t row = size_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= IMAGES * ROWS) return;
    const T* const x_row = x + (row / ROWS * IMAGE_ROWS + FIRST_ROW + row % ROWS) * STRIDE;
    constexpr int EACH = (COLUMNS + 31) / 32;
    float values[EACH], sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int column = lane + 32 * i;
        values[i] = 0;
        if (column >= COLUMNS) continue;
#pragma unroll
        for (int k = 0; k < SPLIT_K; ++k) values[i] += partial[(size_t(k) * IMAGES * ROWS + row) * COLUMNS + column];
        values[i] = apply_epilogue(values[i], load_operands(all, x_row, row, column), 0, 0);
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
        if (POST_NORM) values[i] = (values[i] - mean) * inverse * to_float(scale[column]) + to_float(shift[column]);
        store(from_float(values[i]), all, row, column);
    }
}
#endif
