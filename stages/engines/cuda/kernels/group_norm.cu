// The operator GroupNorm (arXiv:1803.08494): of the tokens of several levels at once, each with its own weights. Then
// [activation], [+ residual], and [out + pos_embed] as a second output.
//
// Inputs x_l [B, rows of l, CHANNELS] for LEVELS levels, scale and shift [LEVELS, CHANNELS], residual [B, ROWS, CHANNELS],
// pos_embed [ROWS, CHANNELS] -> out and with_pos_embed [B, ROWS, CHANNELS], the levels one after the other. All are of type T;
// sums are formed in float32. A group is CHANNELS / GROUPS neighbouring channels. `sum_chunks` writes the sums of CHUNKS
// chunks of each level's rows, `reduce_sums` adds them up, `normalise` does the rest. The caller defines all names in
// capitals; LEVEL_ROWS is a list of the rows of each level.

#include "types.cuh"

constexpr int LANES = CHANNELS / VECTOR;     // threads for one row
constexpr int WIDTH = CHANNELS / GROUPS;
constexpr int ROWS_AT_ONCE = THREADS / LANES;     // of a block
static_assert(CHANNELS % VECTOR == 0 && CHANNELS % GROUPS == 0 && LANES <= THREADS, "rows must fill vectors of 16 bytes");

__constant__ const int level_rows[LEVELS] = {LEVEL_ROWS};

// Sum and sum of squares of a group, in a chunk of a level's rows or in all of them.
struct Sums {
    float sum, square;
};

// Not an array of pointers, which would be in local memory.
__device__ inline const T* level_input(int level, const T* x0, const T* x1, const T* x2, const T* x3) {
    return level == 0 ? x0 : level == 1 ? x1 : level == 2 ? x2 : x3;
}

#define ARGUMENTS                                                                                                      \
    const T *x0, const T *x1, const T *x2, const T *x3, const T *__restrict__ scale, const T *__restrict__ shift,      \
        const T *residual, const T *__restrict__ pos_embed, T *__restrict__ out, T *__restrict__ with_pos_embed,       \
        Sums *chunk_sums, Sums *totals

// The order of additions is fixed and there are no atomic ones, so the same picture always gives the same result.
extern "C" __global__ void __launch_bounds__(THREADS) sum_chunks(ARGUMENTS) {
    wait_for_predecessor();
    __shared__ Sums parts[ROWS_AT_ONCE][CHANNELS];
    const int chunk = blockIdx.x, level = blockIdx.y, image = blockIdx.z, rows = level_rows[level];
    const T* const x = level_input(level, x0, x1, x2, x3) + size_t(image) * rows * CHANNELS;
    const int share = (rows + CHUNKS - 1) / CHUNKS, end = min((chunk + 1) * share, rows);
    const int channel = threadIdx.x % LANES * VECTOR, down = threadIdx.x / LANES;
    if (down < ROWS_AT_ONCE) {
        Sums own[VECTOR] = {};
#pragma unroll 4
        for (int row = chunk * share + down; row < end; row += ROWS_AT_ONCE) {
            const Pack read(x + size_t(row) * CHANNELS + channel);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float value = to_float(read.each[k]);
                own[k].sum += value, own[k].square += value * value;
            }
        }
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) parts[down][channel + k] = own[k];
    }
    launch_dependents();
    __syncthreads();
    for (int i = threadIdx.x; i < CHANNELS; i += THREADS)
        for (int k = 1; k < ROWS_AT_ONCE; ++k) parts[0][i].sum += parts[k][i].sum, parts[0][i].square += parts[k][i].square;
    __syncthreads();
    for (int group = threadIdx.x; group < GROUPS; group += THREADS) {
        Sums total = {0, 0};
        for (int i = group * WIDTH; i < (group + 1) * WIDTH; ++i)
            total.sum += parts[0][i].sum, total.square += parts[0][i].square;
        chunk_sums[((size_t(image) * LEVELS + level) * CHUNKS + chunk) * GROUPS + group] = total;
    }
}

// Adds the chunks' sums up, in a fixed order too. A warp for each group, level and image.
extern "C" __global__ void reduce_sums(ARGUMENTS) {
    launch_dependents();
    wait_for_predecessor();
    const int group = blockIdx.x;
    const size_t at = size_t(blockIdx.z) * LEVELS + blockIdx.y;
    Sums own = {0, 0};
#pragma unroll 4
    for (int chunk = threadIdx.x; chunk < CHUNKS; chunk += 32) {
        const Sums one = chunk_sums[(at * CHUNKS + chunk) * GROUPS + group];
        own.sum += one.sum, own.square += one.square;
    }
    for (int step = 16; step; step /= 2) {
        own.sum += __shfl_xor_sync(~0u, own.sum, step);
        own.square += __shfl_xor_sync(~0u, own.square, step);
    }
    if (threadIdx.x == 0) totals[at * GROUPS + group] = own;
}

extern "C" __global__ void __launch_bounds__(THREADS) normalise(ARGUMENTS) {
    wait_for_predecessor();
    // For each channel: out = x * factor + offset.
    __shared__ float factors[CHANNELS], offsets[CHANNELS];
    const int level = blockIdx.y, image = blockIdx.z, rows = level_rows[level];
    if (blockIdx.x * ROWS_AT_ONCE >= rows) return;
    const T* const x = level_input(level, x0, x1, x2, x3) + size_t(image) * rows * CHANNELS;
    totals += (size_t(image) * LEVELS + level) * GROUPS;
    for (int i = threadIdx.x; i < CHANNELS; i += THREADS) {
        const Sums whole = totals[i / WIDTH];
        const float count = float(rows) * WIDTH, mean = whole.sum / count, square = whole.square / count;
        const float factor = rsqrtf(fmaxf(square - mean * mean, 0) + EPSILON) * to_float(scale[level * CHANNELS + i]);
        factors[i] = factor;
        offsets[i] = to_float(shift[level * CHANNELS + i]) - mean * factor;
    }
    __syncthreads();
    int first = 0;
    for (int k = 0; k < level; ++k) first += level_rows[k];
    const int channel = threadIdx.x % LANES * VECTOR, down = threadIdx.x / LANES;
    if (down >= ROWS_AT_ONCE) return;
    float factor[VECTOR], offset[VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) factor[k] = factors[channel + k], offset[k] = offsets[channel + k];
#pragma unroll 4
    for (int row = blockIdx.x * ROWS_AT_ONCE + down; row < rows; row += gridDim.x * ROWS_AT_ONCE) {
        const size_t to = (size_t(image) * ROWS + first + row) * CHANNELS + channel;
        const Pack read(x + size_t(row) * CHANNELS + channel);
        const Pack more = RESIDUAL ? Pack(residual + to) : Pack();
        Pack result;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            float value = to_float(read.each[k]) * factor[k] + offset[k];
            if (RELU) value = fmaxf(value, 0);
            if (RESIDUAL) value += to_float(more.each[k]);
            result.each[k] = from_float(value);
        }
        result.write(out + to);
        if (POS_EMBED) {
            const Pack embedding(pos_embed + size_t(first + row) * CHANNELS + channel);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                result.each[k] = from_float(to_float(result.each[k]) + to_float(embedding.each[k]));
            result.write(with_pos_embed + to);
        }
    }
}
