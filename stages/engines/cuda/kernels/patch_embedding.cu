// The operator PatchEmbedding: from camera bytes to the tokens of Swin's first stage (arXiv:2103.14030, section 3.1): resize,
// pad, normalise, a linear layer of each patch's pixels and, with NORM, a LayerNorm. All of it is computed in float32, which
// is exact as the graph's own and costs little: K is no more than 48 values for patches of 4 x 4.
//
// frame, bytes [B, FRAME_H, FRAME_W, 3]; weight [K, CHANNELS], bias, scale and shift [CHANNELS] of type T -> out
// [B, ROWS * ACROSS, CHANNELS] of type T, for ROWS x ACROSS patches of PATCH x PATCH pixels. The frame is resized bilinearly to
// USED_H x USED_W; beyond that pixels are 0. The caller defines all names in capitals; MEAN and STD are lists for the colours.
//
// A block computes TILE neighbouring patches of one row. A thread has VECTOR channels of OWN of them.

#include "types.cuh"

constexpr int K = 3 * PATCH * PATCH, ROW_BYTES = 3 * PATCH;
constexpr int ROWS = INPUT_H / PATCH, ACROSS = INPUT_W / PATCH;
constexpr int OWN = 8, GROUPS = CHANNELS / VECTOR, THREADS = GROUPS * (TILE / OWN);
constexpr int PITCH = TILE + 4;  // of a row of pixels in shared memory; the extra columns avoid bank conflicts
static_assert(CHANNELS % VECTOR == 0, "rows must fill vectors of 16 bytes");
static_assert(TILE % OWN == 0 && THREADS <= 1024, "each value has a thread");
static_assert(GROUPS <= K, "the sums of the LayerNorm must fit where the pixels were");

// A value of the network's input before it is normalised.
struct Pixels {
    const unsigned char* frame;
    __device__ float operator()(int row, int column, int colour) const {
        if (row >= USED_H || column >= USED_W) return 0;
#if USED_H == FRAME_H && USED_W == FRAME_W
        return frame[(row * FRAME_W + column) * 3 + colour];
#else
        const Interpolation y(row, USED_H, FRAME_H), x(column, USED_W, FRAME_W);
        const auto read = [&](int down, int across) { return float(frame[(down * FRAME_W + across) * 3 + colour]); };
        const float up = read(y.low, x.low) * (1 - x.share) + read(y.low, x.high) * x.share;
        const float down = read(y.high, x.low) * (1 - x.share) + read(y.high, x.high) * x.share;
        return up * (1 - y.share) + down * y.share;
#endif
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    patch_embedding(const unsigned char* frame, const T* __restrict__ weight, const T* __restrict__ bias,
                    const T* __restrict__ scale, const T* __restrict__ shift, T* __restrict__ out) {
    extern __shared__ __align__(16) float shared[];
    float(*const weights)[CHANNELS] = reinterpret_cast<float(*)[CHANNELS]>(shared);
    float(*const pixels)[PITCH] = reinterpret_cast<float(*)[PITCH]>(shared + K * CHANNELS);
    const int group = threadIdx.x % GROUPS, channel = group * VECTOR, first = threadIdx.x / GROUPS * OWN;
    // Constants, which may be read before the frame is there.
#pragma unroll 4
    for (int i = threadIdx.x * VECTOR; i < K * CHANNELS; i += THREADS * VECTOR) {
        const Pack values(weight + i);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) shared[i + k] = to_float(values.each[k]);
    }
    float total[OWN][VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        total[0][k] = to_float(bias[channel + k]);
#pragma unroll
        for (int i = 1; i < OWN; ++i) total[i][k] = total[0][k];
    }
    wait_for_predecessor();
    const Pixels read{frame + size_t(blockIdx.z) * FRAME_H * FRAME_W * 3};
    constexpr float mean[] = {MEAN}, std[] = {STD};
#pragma unroll 8
    for (int i = threadIdx.x; i < PATCH * TILE * ROW_BYTES; i += THREADS) {
        const int down = i / (TILE * ROW_BYTES), along = i % (TILE * ROW_BYTES), colour = along % 3;
        const int column = blockIdx.x * TILE * PATCH + along / 3;
        const float value = column < INPUT_W ? read(blockIdx.y * PATCH + down, column, colour) : 0;
        const float centre = colour == 0 ? mean[0] : colour == 1 ? mean[1] : mean[2];
        const float inverse = colour == 0 ? 1 / std[0] : colour == 1 ? 1 / std[1] : 1 / std[2];
        pixels[down * ROW_BYTES + along % ROW_BYTES][along / ROW_BYTES] = (value - centre) * inverse;
    }
    __syncthreads();
#pragma unroll 4
    for (int row = 0; row < K; ++row) {
        float p[OWN], w[VECTOR];
#pragma unroll
        for (int i = 0; i < OWN; i += 4)
            *reinterpret_cast<float4*>(p + i) = *reinterpret_cast<const float4*>(&pixels[row][first + i]);
#pragma unroll
        for (int k = 0; k < VECTOR; k += 4)
            *reinterpret_cast<float4*>(w + k) = *reinterpret_cast<const float4*>(&weights[row][channel + k]);
#pragma unroll
        for (int i = 0; i < OWN; ++i)
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) total[i][k] += p[i] * w[k];
    }
    launch_dependents();
#if NORM
    // Mean and deviation over the channels of a patch, which GROUPS threads have between them. The sums lie where the pixels
    // were, and are added up in a fixed order.
    float(*const sums)[PITCH] = pixels;
    const auto over_channels = [&](const float(&own)[OWN], float(&result)[OWN]) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; ++i) sums[group][first + i] = own[i], result[i] = 0;
        __syncthreads();
        for (int other = 0; other < GROUPS; ++other)
#pragma unroll
            for (int i = 0; i < OWN; ++i) result[i] += sums[other][first + i];
    };
    float own[OWN], centre[OWN], square[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        own[i] = 0;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) own[i] += total[i][k];
    }
    over_channels(own, centre);
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        centre[i] /= CHANNELS, own[i] = 0;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) own[i] += (total[i][k] - centre[i]) * (total[i][k] - centre[i]);
    }
    over_channels(own, square);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        const float gain = to_float(scale[channel + k]), offset = to_float(shift[channel + k]);
#pragma unroll
        for (int i = 0; i < OWN; ++i)
            total[i][k] = (total[i][k] - centre[i]) * rsqrtf(square[i] / CHANNELS + EPSILON) * gain + offset;
    }
#endif
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int column = blockIdx.x * TILE + first + i;
        if (column >= ACROSS) continue;
        Pack result;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) result.each[k] = from_float(total[i][k]);
        result.write(out + (size_t(blockIdx.z) * ROWS * ACROSS + blockIdx.y * ACROSS + column) * CHANNELS + channel);
    }
}
