// The operator DeformableAttention: multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 3) in one pass,
// from offsets and logits to the weighted sum of samples. Nothing in between is written to memory.
//
// value [B, LENGTH, HEADS, DEPTH] and samples [B, LENGTH, HEADS * LEVELS * POINTS * 3], which are offsets [HEADS, LEVELS,
// POINTS, 2] as (x, y) in pixels of the level, and then logits [HEADS, LEVELS * POINTS] of the samples' weights ->
// sampled [B, LENGTH, HEADS, DEPTH]. All are of type T. Each position of the stacked levels samples around its own location in
// every level, bilinearly at pixel centres, with zeros outside. A block has PAIRS pairs of a position and a head. The caller
// defines HALF, HEADS, DEPTH, LEVELS, POINTS, LENGTH, SIZES, PAIRS.

#include "types.cuh"

constexpr int SAMPLES = LEVELS * POINTS;
constexpr int LANES = DEPTH / VECTOR;  // threads of a pair
static_assert(DEPTH % VECTOR == 0, "a head's channels must fill vectors of 16 bytes");

__constant__ const int sizes[LEVELS][2] = {SIZES};  // height, width

extern "C" __global__ void __launch_bounds__(PAIRS * LANES)
    deformable_attention(const T* value, const T* samples, T* __restrict__ sampled) {
    wait_for_predecessor();
    // For each sample the weights of its four corners, and their offsets in channels.
    __shared__ float4 shares[SAMPLES][PAIRS];
    __shared__ int4 corners[SAMPLES][PAIRS];

    const size_t image = blockIdx.y;
    value += image * LENGTH * HEADS * DEPTH;
    samples += image * LENGTH * HEADS * SAMPLES * 3;
    sampled += image * LENGTH * HEADS * DEPTH;
    const int first = blockIdx.x * PAIRS;

    // Four threads share the samples of a pair.
    constexpr int EACH = (SAMPLES + 3) / 4;
    for (int i = threadIdx.x; i < PAIRS * 4; i += blockDim.x) {
        const int pair = i / 4, at = min(first + pair, LENGTH * HEADS - 1), query = at / HEADS, head = at % HEADS;
        const unsigned four = 15u << threadIdx.x % 32 / 4 * 4;
        const T* offsets = samples + size_t(query) * HEADS * SAMPLES * 3 + head * SAMPLES * 2;
        const T* row = samples + size_t(query) * HEADS * SAMPLES * 3 + HEADS * SAMPLES * 2 + head * SAMPLES;
        float weights[EACH], largest = -INFINITY, sum = 0;
#pragma unroll
        for (int k = 0; k < EACH; ++k) {
            const int sample = k * 4 + i % 4;
            weights[k] = sample < SAMPLES ? to_float(row[sample]) : -INFINITY;
            largest = fmaxf(largest, weights[k]);
        }
        for (int step = 1; step < 4; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(four, largest, step));
#pragma unroll
        for (int k = 0; k < EACH; ++k) sum += weights[k] = __expf(weights[k] - largest);
        for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(four, sum, step);

        int own = 0, place = query;
        while (place >= sizes[own][0] * sizes[own][1]) place -= sizes[own][0] * sizes[own][1], ++own;
        const float own_x = (place % sizes[own][1] + 0.5f) / sizes[own][1];
        const float own_y = (place / sizes[own][1] + 0.5f) / sizes[own][0];
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int sample = j * 4 + i % 4, level = sample / POINTS;
            if (sample >= SAMPLES) continue;
            const float weight = weights[j] / sum;
            int start = 0;
            for (int k = 0; k < level; ++k) start += sizes[k][0] * sizes[k][1];
            const int height = sizes[level][0], width = sizes[level][1];
            const T* offset = offsets + sample * 2;
            const float x = own_x * width + to_float(offset[0]) - 0.5f;
            const float y = own_y * height + to_float(offset[1]) - 0.5f;
            // Nothing is sampled beyond these limits; without them integers would overflow.
            const float column = floorf(fminf(fmaxf(x, -2.f), width + 1.f));
            const float row_up = floorf(fminf(fmaxf(y, -2.f), height + 1.f));
            const float dx = x - column, dy = y - row_up;
            const int x0 = int(column), y0 = int(row_up);

            float share[4];
            int corner[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int cx = x0 + (k & 1), cy = y0 + (k >> 1);
                const bool inside = cx >= 0 && cx < width && cy >= 0 && cy < height;
                share[k] = inside ? weight * ((k & 1) ? dx : 1 - dx) * ((k >> 1) ? dy : 1 - dy) : 0;
                corner[k] = inside ? ((start + cy * width + cx) * HEADS + head) * DEPTH : 0;
            }
            shares[sample][pair] = make_float4(share[0], share[1], share[2], share[3]);
            corners[sample][pair] = make_int4(corner[0], corner[1], corner[2], corner[3]);
        }
    }
    __syncthreads();

    const int pair = threadIdx.x / LANES, channel = threadIdx.x % LANES * VECTOR;
    if (first + pair >= LENGTH * HEADS) return;
    float total[VECTOR] = {};
    const T* here = value + channel;
    const auto add = [&](int corner, float share) {
        const Pack read(here + corner);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) total[i] += share * to_float(read.each[i]);
    };
#pragma unroll 4
    for (int sample = 0; sample < SAMPLES; ++sample) {
        const float4 share = shares[sample][pair];
        const int4 corner = corners[sample][pair];
        add(corner.x, share.x), add(corner.y, share.y), add(corner.z, share.z), add(corner.w, share.w);
    }
    launch_dependents();
    Pack written;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) written.each[i] = from_float(total[i]);
    written.write(sampled + size_t(first + pair) * DEPTH + channel);
}
