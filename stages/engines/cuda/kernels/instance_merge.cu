// The operator InstanceMerge (Mask2Former, arXiv:2112.01527, appendix): from class and mask logits to the TOP_K most probable
// pairs of query and class, their masks as bits, and their scores. The result is that of `instance` in
// stages/operators/instance_merge.py; of pairs with the same probability the first comes first.
//
// class_logits [B, QUERIES, 1 + CLASSES], no-object at 0, and mask_logits [B, QUERIES, LOW_H, LOW_W], of type T.
// The caller defines HALF, QUERIES, CLASSES, TOP_K, THREADS of `write_masks`, and the sizes of masks.cuh.

#include "types.cuh"
#include "masks.cuh"

typedef unsigned long long Key;  // the bits of a probability, then the complement of its pair's index

constexpr int PAIRS = QUERIES * CLASSES, BYTES = (W + 7) / 8, BLOCKS = (H * BYTES + THREADS - 1) / THREADS;
constexpr int DIGITS = 256;

__device__ inline float probability_of(Key key) { return __int_as_float(int(key >> 32)); }
__device__ inline int pair_of(Key key) { return int(~unsigned(key)); }

// A chunk of a mask: the sum of its probabilities, and its pixels.
struct Part {
    float sum;
    int pixels;
};

// Writes the keys of all pairs to `keys` [B, PAIRS], and those of the best, in order, to `best` [B, TOP_K]. A block for each
// image. Keys differ from one another, so the result does not depend on the order in which threads run.
extern "C" __global__ void select_pairs(const T* class_logits, Key* keys, Key* unsorted, Key* best, int* category_ids) {
    launch_dependents();
    wait_for_predecessor();
    class_logits += size_t(blockIdx.x) * QUERIES * (1 + CLASSES);
    keys += size_t(blockIdx.x) * PAIRS;
    unsorted += blockIdx.x * TOP_K, best += blockIdx.x * TOP_K, category_ids += blockIdx.x * TOP_K;
    const int lane = threadIdx.x % WARP;
    for (int query = threadIdx.x / WARP; query < QUERIES; query += blockDim.x / WARP) {
        const T* row = class_logits + query * (1 + CLASSES);
        const Softmax softmax(row, lane);
        for (int c = lane; c < CLASSES; c += WARP) {
            const unsigned pair = query * CLASSES + c;
            // A NaN would be above all others as an integer.
            const float probability = fmaxf(softmax(row[1 + c]), 0);
            keys[pair] = Key(unsigned(__float_as_int(probability))) << 32 | ~pair;
        }
    }
    __syncthreads();

    // The smallest key among the best, byte by byte from the highest: how many keys have each value of the next byte.
    __shared__ int counts[DIGITS], left, count;
    __shared__ Key prefix;
    if (threadIdx.x == 0) left = TOP_K, prefix = 0, count = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < DIGITS; i += blockDim.x) counts[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < PAIRS; i += blockDim.x)
            if (shift == 56 || keys[i] >> (shift + 8) == prefix >> (shift + 8))
                atomicAdd(counts + (keys[i] >> shift & (DIGITS - 1)), 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = DIGITS - 1;
            while (counts[digit] < left) left -= counts[digit--];
            prefix |= Key(digit) << shift;
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < PAIRS; i += blockDim.x)
        if (keys[i] >= prefix) unsorted[atomicAdd(&count, 1)] = keys[i];
    __syncthreads();
    for (int i = threadIdx.x; i < TOP_K; i += blockDim.x) {
        const Key key = unsorted[i];
        int rank = 0;
        for (int k = 0; k < TOP_K; ++k) rank += unsorted[k] > key;
        best[rank] = key;
        category_ids[rank] = pair_of(key) % CLASSES + 1;
    }
}

// Writes the bits of a mask, the leftmost of eight pixels in the highest bit, and the parts of its sum to `parts`
// [B, TOP_K, BLOCKS]. A thread writes a byte.
extern "C" __global__ void __launch_bounds__(THREADS) write_masks(const T* mask_logits, const Key* best,
                                                                  unsigned char* mask_bits, Part* parts) {
    __shared__ Part of_warp[THREADS / WARP];
    wait_for_predecessor();
    const size_t which = size_t(blockIdx.z) * TOP_K + blockIdx.y;
    const int query = pair_of(best[which]) / CLASSES;
    const T* mask = mask_logits + (size_t(blockIdx.z) * QUERIES + query) * LOW_H * LOW_W;
    const int at = blockIdx.x * THREADS + threadIdx.x, row = at / BYTES, column = at % BYTES * 8;
    Part own = {0, 0};
    if (row < H) {
        unsigned bits = 0;
        for (int i = 0; i < 8 && column + i < W; ++i) {
            const float logit = AtFrame(row, column + i)(mask);
            if (logit > 0) bits |= 128 >> i, own.sum += 1 / (1 + expf(-logit)), ++own.pixels;
        }
        mask_bits[which * H * BYTES + at] = bits;
    }
    launch_dependents();
    for (int step = WARP / 2; step; step /= 2) {
        own.sum += __shfl_xor_sync(ALL, own.sum, step);
        own.pixels += __shfl_xor_sync(ALL, own.pixels, step);
    }
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < THREADS / WARP; ++i) own.sum += of_warp[i].sum, own.pixels += of_warp[i].pixels;
        parts[which * BLOCKS + blockIdx.x] = own;
    }
}

// Writes the score of each pair: the probability of its class times the mean probability inside its mask. A warp for each.
extern "C" __global__ void score_masks(const Key* best, const Part* parts, float* scores) {
    launch_dependents();
    wait_for_predecessor();
    const size_t which = size_t(blockIdx.y) * TOP_K + blockIdx.x;
    Part own = {0, 0};
    for (int i = threadIdx.x; i < BLOCKS; i += WARP) {
        const Part one = parts[which * BLOCKS + i];
        own.sum += one.sum, own.pixels += one.pixels;
    }
    for (int step = WARP / 2; step; step /= 2) {
        own.sum += __shfl_xor_sync(ALL, own.sum, step);
        own.pixels += __shfl_xor_sync(ALL, own.pixels, step);
    }
    if (threadIdx.x == 0) scores[which] = probability_of(best[which]) * (own.sum / (own.pixels + 1e-6f));
}
