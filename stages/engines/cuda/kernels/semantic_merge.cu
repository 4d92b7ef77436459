// The operator SemanticMerge (Mask2Former, arXiv:2112.01527, appendix): from class and mask logits to a map of category_ids,
// in two passes. Masks are not written at the frame's size: a block resizes the logits of its pixels and multiplies their
// probabilities with those of the classes at once, in float32. The result is that of `semantic` in
// stages/operators/semantic_merge.py.
//
// class_logits [B, QUERIES, 1 + CLASSES], no-object at 0, and mask_logits [B, QUERIES, LOW_H, LOW_W], of type T.
// The caller defines HALF, QUERIES, CLASSES (255 at most), THREADS and the sizes of masks.cuh.

#include "types.cuh"
#include "masks.cuh"

constexpr int ACROSS = 32, DOWN = 4, PIXELS = ACROSS * DOWN;    // of a block
constexpr int OWN = 8;                                          // pixels, and classes, of which a thread forms the sums
constexpr int GROUPS = (CLASSES + OWN - 1) / OWN, COLUMNS = GROUPS * OWN;
constexpr int CHUNK = 16;                                       // queries in shared memory at once
static_assert(CLASSES <= 255, "category_ids are bytes");
static_assert(THREADS % PIXELS == 0 && GROUPS * (PIXELS / OWN) <= THREADS, "each pixel and each sum has a thread");

// Writes the probability of each query's classes to `probabilities` [B, QUERIES, COLUMNS]. A warp for each query.
extern "C" __global__ void class_probabilities(const T* class_logits, float* probabilities) {
    launch_dependents();
    wait_for_predecessor();
    const int lane = threadIdx.x % WARP, query = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (query >= QUERIES) return;
    const size_t row = size_t(blockIdx.y) * QUERIES + query;
    class_logits += row * (1 + CLASSES), probabilities += row * COLUMNS;
    const Softmax softmax(class_logits, lane);
    for (int c = lane; c < COLUMNS; c += WARP) probabilities[c] = c < CLASSES ? softmax(class_logits[1 + c]) : 0;
}

// Writes the category_id with the largest sum over all queries of each of a block's ACROSS x DOWN pixels.
extern "C" __global__ void __launch_bounds__(THREADS) classify(const T* mask_logits, const float* probabilities,
                                                               unsigned char* class_ids) {
    __shared__ __align__(16) float inside[CHUNK][PIXELS], of_class[CHUNK][COLUMNS];
    __shared__ float best[GROUPS][PIXELS];
    __shared__ unsigned char winner[GROUPS][PIXELS];
    wait_for_predecessor();
    mask_logits += size_t(blockIdx.z) * QUERIES * LOW_H * LOW_W;
    probabilities += size_t(blockIdx.z) * QUERIES * COLUMNS;
    const int pixel = threadIdx.x % PIXELS;
    const int row = blockIdx.y * DOWN + pixel / ACROSS, column = blockIdx.x * ACROSS + pixel % ACROSS;
    const AtFrame at(min(row, H - 1), min(column, W - 1));
    const int group = threadIdx.x / (PIXELS / OWN), first = threadIdx.x % (PIXELS / OWN) * OWN;
    const bool sums = group < GROUPS;
    float total[OWN][OWN] = {};  // by pixel and class
    for (int start = 0; start < QUERIES; start += CHUNK) {
        const int count = min(CHUNK, QUERIES - start);
        for (int q = threadIdx.x / PIXELS; q < count; q += THREADS / PIXELS) {
            const float logit = at(mask_logits + size_t(start + q) * LOW_H * LOW_W);
            inside[q][pixel] = __fdividef(1, 1 + __expf(-logit));
        }
        for (int i = threadIdx.x; i < count * COLUMNS; i += THREADS)
            of_class[i / COLUMNS][i % COLUMNS] = probabilities[size_t(start) * COLUMNS + i];
        __syncthreads();
        if (sums)
            for (int q = 0; q < count; ++q) {
                float p[OWN], c[OWN];
#pragma unroll
                for (int i = 0; i < OWN; i += 4) {
                    *reinterpret_cast<float4*>(p + i) = *reinterpret_cast<const float4*>(&inside[q][first + i]);
                    *reinterpret_cast<float4*>(c + i) = *reinterpret_cast<const float4*>(&of_class[q][group * OWN + i]);
                }
#pragma unroll
                for (int i = 0; i < OWN; ++i)
#pragma unroll
                    for (int k = 0; k < OWN; ++k) total[i][k] += p[i] * c[k];
            }
        __syncthreads();
    }
    launch_dependents();
    if (sums)
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            float largest = -1;  // also where every sum is NaN; the first class wins then
            int who = group * OWN;
#pragma unroll
            for (int k = 0; k < OWN; ++k)
                if (group * OWN + k < CLASSES && total[i][k] > largest) largest = total[i][k], who = group * OWN + k;
            best[group][first + i] = largest, winner[group][first + i] = who;
        }
    __syncthreads();
    if (threadIdx.x < PIXELS && row < H && column < W) {
        float largest = best[0][pixel];
        int who = winner[0][pixel];
        for (int i = 1; i < GROUPS; ++i)
            if (best[i][pixel] > largest) largest = best[i][pixel], who = winner[i][pixel];
        class_ids[(size_t(blockIdx.z) * H + row) * W + column] = who + 1;
    }
}
