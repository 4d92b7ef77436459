// GroupNorm (arXiv:1803.08494) of tokens, of several pictures at once, each with weights of its own: what the levels of a
// pixel decoder need. Then [activation], [+ residual], and [out + position] as a second output.
//
// Inputs x_l [B, rows of l, CHANNELS] for LEVELS levels, scale and shift [LEVELS, CHANNELS], residual [B, ROWS, CHANNELS],
// position [ROWS, CHANNELS] -> out and moved [B, ROWS, CHANNELS], the levels one after the other; all of type T, sums in
// float32. A group is CHANNELS / GROUPS neighbours. `add_up` writes sums of CHUNKS shares of each level's rows, `total_up`
// adds them up, `normalise` does the rest. Defined by the caller: all in capitals, and ROWS_OF, the rows of each level.

#include "types.cuh"

constexpr int LANES = CHANNELS / VECTOR;     // threads for one row
constexpr int WIDTH = CHANNELS / GROUPS;
constexpr int AT_ONCE = THREADS / LANES;     // rows
static_assert(CHANNELS % VECTOR == 0 && CHANNELS % GROUPS == 0 && LANES <= THREADS, "rows must fill vectors of 16 bytes");

__constant__ const int rows_of[LEVELS] = {ROWS_OF};

// Sum and sum of squares of a share of a level's rows, for each group.
struct Sums {
    float sum, square;
};

// An array of pointers would be in memory.
__device__ inline const T* of_level(int level, const T* x0, const T* x1, const T* x2, const T* x3) {
    return level == 0 ? x0 : level == 1 ? x1 : level == 2 ? x2 : x3;
}

#define ARGUMENTS                                                                                                      \
    const T *x0, const T *x1, const T *x2, const T *x3, const T *__restrict__ scale, const T *__restrict__ shift,      \
        const T *residual, const T *__restrict__ position, T *__restrict__ out, T *__restrict__ moved, Sums *found,    \
        Sums *totals

// In a fixed order, without atomic additions: the same picture has the same answer each time.
extern "C" __global__ void __launch_bounds__(THREADS) add_up(ARGUMENTS) {
    follow();
    __shared__ Sums parts[AT_ONCE][CHANNELS];
    const int chunk = blockIdx.x, level = blockIdx.y, image = blockIdx.z, rows = rows_of[level];
    const T* const x = of_level(level, x0, x1, x2, x3) + size_t(image) * rows * CHANNELS;
    const int share = (rows + CHUNKS - 1) / CHUNKS, end = min((chunk + 1) * share, rows);
    const int channel = threadIdx.x % LANES * VECTOR, down = threadIdx.x / LANES;
    if (down < AT_ONCE) {
        Sums own[VECTOR] = {};
#pragma unroll 4
        for (int row = chunk * share + down; row < end; row += AT_ONCE) {
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
    lead();
    __syncthreads();
    for (int i = threadIdx.x; i < CHANNELS; i += THREADS)
        for (int k = 1; k < AT_ONCE; ++k) parts[0][i].sum += parts[k][i].sum, parts[0][i].square += parts[k][i].square;
    __syncthreads();
    for (int group = threadIdx.x; group < GROUPS; group += THREADS) {
        Sums total = {0, 0};
        for (int i = group * WIDTH; i < (group + 1) * WIDTH; ++i)
            total.sum += parts[0][i].sum, total.square += parts[0][i].square;
        found[((size_t(image) * LEVELS + level) * CHUNKS + chunk) * GROUPS + group] = total;
    }
}

// The chunks' sums, added up: a warp for each group, level and image, in a fixed order too.
extern "C" __global__ void total_up(ARGUMENTS) {
    lead();
    follow();
    const int group = blockIdx.x;
    const size_t at = size_t(blockIdx.z) * LEVELS + blockIdx.y;
    Sums own = {0, 0};
#pragma unroll 4
    for (int chunk = threadIdx.x; chunk < CHUNKS; chunk += 32) {
        const Sums one = found[(at * CHUNKS + chunk) * GROUPS + group];
        own.sum += one.sum, own.square += one.square;
    }
    for (int step = 16; step; step /= 2) {
        own.sum += __shfl_xor_sync(~0u, own.sum, step);
        own.square += __shfl_xor_sync(~0u, own.square, step);
    }
    if (threadIdx.x == 0) totals[at * GROUPS + group] = own;
}

extern "C" __global__ void __launch_bounds__(THREADS) normalise(ARGUMENTS) {
    follow();
    // Of each channel: out = x * factor + offset.
    __shared__ float factors[CHANNELS], offsets[CHANNELS];
    const int level = blockIdx.y, image = blockIdx.z, rows = rows_of[level];
    if (blockIdx.x * AT_ONCE >= rows) return;
    const T* const x = of_level(level, x0, x1, x2, x3) + size_t(image) * rows * CHANNELS;
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
    for (int k = 0; k < level; ++k) first += rows_of[k];
    const int channel = threadIdx.x % LANES * VECTOR, down = threadIdx.x / LANES;
    if (down >= AT_ONCE) return;
    float factor[VECTOR], offset[VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) factor[k] = factors[channel + k], offset[k] = offsets[channel + k];
#pragma unroll 4
    for (int row = blockIdx.x * AT_ONCE + down; row < rows; row += gridDim.x * AT_ONCE) {
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
        if (POSITION) {
            const Pack place(position + size_t(first + row) * CHANNELS + channel);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                result.each[k] = from_float(to_float(result.each[k]) + to_float(place.each[k]));
            result.write(moved + to);
        }
    }
}
