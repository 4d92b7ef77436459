// The way of a mask logit to the frame, for all merges: from LOW_H x LOW_W bilinearly to IN_H x IN_W, cut to USED_H x USED_W
// and, where the frame has another size, resized to it, H x W. The caller defines these sizes.

__device__ inline float blend(float low, float high, float share) { return (1 - share) * low + share * high; }

// The logit of one pixel of the network's input, and with SCALED of the frame.
struct Resized {
    Interpolation y, x;
    __device__ Resized(int row, int column) : y(row, IN_H, LOW_H), x(column, IN_W, LOW_W) {}
    __device__ float operator()(const T* mask) const {
        const T *up = mask + y.low * LOW_W, *down = mask + y.high * LOW_W;
        return blend(blend(to_float(up[x.low]), to_float(up[x.high]), x.share),
                     blend(to_float(down[x.low]), to_float(down[x.high]), x.share), y.share);
    }
};

#define SCALED (USED_H != H || USED_W != W)
#if SCALED
struct AtFrame {
    Interpolation y, x;
    Resized corners[4];
    __device__ AtFrame(int row, int column)
        : y(row, H, USED_H),
          x(column, W, USED_W),
          corners{{y.low, x.low}, {y.low, x.high}, {y.high, x.low}, {y.high, x.high}} {}
    __device__ float operator()(const T* mask) const {
        return blend(blend(corners[0](mask), corners[1](mask), x.share),
                     blend(corners[2](mask), corners[3](mask), x.share), y.share);
    }
};
#else
typedef Resized AtFrame;
#endif

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// The largest logit and the sum of exponentials relative to it of a query's class logits, no-object at 0. All lanes of a warp
// call it, and all of them get the result.
struct Softmax {
    float largest, sum;
    __device__ Softmax(const T* row, int lane) : largest(-INFINITY), sum(0) {
        for (int c = lane; c <= CLASSES; c += WARP) largest = fmaxf(largest, to_float(row[c]));
        for (int step = WARP / 2; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, step));
        for (int c = lane; c <= CLASSES; c += WARP) sum += expf(to_float(row[c]) - largest);
        for (int step = WARP / 2; step; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    }
    __device__ float operator()(T logit) const { return expf(to_float(logit) - largest) / sum; }
};
