// The operator Resize: resizes a picture's tokens bilinearly, with pixel centres at halves (align_corners=False in PyTorch).
//
// x [B, IMAGE_ROWS, CHANNELS], of which rows FIRST_ROW to FIRST_ROW + IN_H * IN_W are the picture -> [B, OUT_H * OUT_W,
// CHANNELS]. Both are of type T, computed in float32. The caller defines all names in capitals.

#include "types.cuh"

constexpr int LANES = CHANNELS / VECTOR;
static_assert(CHANNELS % VECTOR == 0, "rows must fill vectors of 16 bytes");

extern "C" __global__ void resize(const T* x, T* __restrict__ out) {
    wait_for_predecessor();
    const int at = blockIdx.x * blockDim.x + threadIdx.x, row = at / LANES, channel = at % LANES * VECTOR;
    if (row >= OUT_H * OUT_W) return;
    x += (size_t(blockIdx.y) * IMAGE_ROWS + FIRST_ROW) * CHANNELS + channel;
    out += (size_t(blockIdx.y) * OUT_H * OUT_W + row) * CHANNELS + channel;
    const Interpolation y(row / OUT_W, OUT_H, IN_H), z(row % OUT_W, OUT_W, IN_W);
    const auto read = [&](int down, int across) { return Pack(x + size_t(down * IN_W + across) * CHANNELS); };
    const Pack a = read(y.low, z.low), b = read(y.low, z.high), c = read(y.high, z.low), d = read(y.high, z.high);
    Pack result;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        const float up = to_float(a.each[k]) * (1 - z.share) + to_float(b.each[k]) * z.share;
        const float down = to_float(c.each[k]) * (1 - z.share) + to_float(d.each[k]) * z.share;
        result.each[k] = from_float(up * (1 - y.share) + down * y.share);
    }
    result.write(out);
}
