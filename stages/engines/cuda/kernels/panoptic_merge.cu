// The operator PanopticMerge (Mask2Former, arXiv:2112.01527, appendix): from class and mask logits to a map of query ids, in
// three passes. Masks are not written at the frame's size: each pixel resizes, weighs and compares the logits of the queries
// above the score threshold. The result is that of `panoptic` in stages/operators/panoptic_merge.py.
//
// class_logits [B, QUERIES, 1 + CLASSES], no-object at 0, and mask_logits [B, QUERIES, LOW_H, LOW_W], of type T.
// The caller defines HALF, QUERIES (255 at most), CLASSES, THINGS, SCORE_THRESHOLD, OVERLAP_THRESHOLD and the sizes of masks.cuh.

#include "types.cuh"
#include "masks.cuh"

constexpr int VOID_QUERY = 255;
static_assert(QUERIES <= VOID_QUERY, "query ids are bytes");

// For each query the number of pixels that it wins, that it covers with a probability of 0.5 or more, and both; and the
// queries above the score threshold.
struct Counts {
    int won[QUERIES], covered[QUERIES], held[QUERIES];
    int kept[QUERIES], num_kept;
};

// Writes scores and classes of queries, and lists those above the threshold. A block for each image.
extern "C" __global__ void select_queries(const T* class_logits, Counts* all_counts, float* scores, int* category_ids) {
    launch_dependents();
    wait_for_predecessor();
    __shared__ bool keep[QUERIES];
    class_logits += size_t(blockIdx.x) * QUERIES * (1 + CLASSES);
    scores += blockIdx.x * QUERIES, category_ids += blockIdx.x * QUERIES;
    Counts& counts = all_counts[blockIdx.x];
    const int lane = threadIdx.x % WARP;
    for (int query = threadIdx.x / WARP; query < QUERIES; query += blockDim.x / WARP) {
        const T* row = class_logits + query * (1 + CLASSES);
        float best = -INFINITY;
        int best_class = CLASSES;
        for (int c = lane; c < CLASSES; c += WARP) {
            const float logit = to_float(row[1 + c]);
            if (logit > best) best = logit, best_class = c;
        }
        for (int step = WARP / 2; step; step /= 2) {
            const float other = __shfl_xor_sync(ALL, best, step);
            const int other_class = __shfl_xor_sync(ALL, best_class, step);
            if (other > best || (other == best && other_class < best_class)) best = other, best_class = other_class;
        }
        const Softmax softmax(row, lane);
        if (lane == 0) {
            const float score = expf(best - softmax.largest) / softmax.sum;
            scores[query] = score;
            category_ids[query] = best_class + 1;
            keep[query] = score > SCORE_THRESHOLD;
        }
    }
    __syncthreads();
    for (int query = threadIdx.x; query < QUERIES; query += blockDim.x) {
        counts.won[query] = counts.covered[query] = counts.held[query] = 0;
        int before = 0;
        for (int k = 0; k < query; ++k) before += keep[k];
        if (keep[query]) counts.kept[before] = query;
        if (query == QUERIES - 1) counts.num_kept = before + keep[query];
    }
}

// Writes the best query of each pixel, or VOID_QUERY where it does not cover the pixel, and counts. Blocks of 32 x n pixels.
extern "C" __global__ void vote(const T* mask_logits, const float* scores, Counts* all_counts, unsigned char* winners) {
    wait_for_predecessor();
    __shared__ int won[QUERIES], covered[QUERIES], held[QUERIES], kept[QUERIES];
    __shared__ float score[QUERIES];
    mask_logits += size_t(blockIdx.z) * QUERIES * LOW_H * LOW_W;
    Counts& counts = all_counts[blockIdx.z];
    const int thread = threadIdx.y * WARP + threadIdx.x, num_kept = counts.num_kept;
    for (int i = thread; i < num_kept; i += WARP * blockDim.y) {
        won[i] = covered[i] = held[i] = 0;
        kept[i] = counts.kept[i];
        score[i] = scores[blockIdx.z * QUERIES + kept[i]];
    }
    __syncthreads();

    const int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * WARP + threadIdx.x;
    const bool real = row < H && column < W;
    const AtFrame at(min(row, H - 1), min(column, W - 1));
    // A logit below `enough` can't give a product above `best`, whatever the score; 0.01 leaves room for rounding.
    float best = -1, enough = -INFINITY;
    int winner = 0;  // also where every logit is NaN; no query holds the pixel then
    bool holds = false;
    for (int i = 0; i < num_kept; ++i) {
        const float logit = at(mask_logits + size_t(kept[i]) * LOW_H * LOW_W);
        const bool inside = real && logit >= 0;
        if (logit >= enough) {
            const float weighted = __fdividef(score[i], 1 + __expf(-logit));
            if (weighted > best) {
                best = weighted, winner = i, holds = inside;
                enough = __logf(__fdividef(best, 1 - best)) - 0.01f;
            }
        }
        const unsigned covers = __ballot_sync(ALL, inside);
        if (covers && threadIdx.x == 0) atomicAdd(covered + i, __popc(covers));
    }
    if (num_kept) {
        // One atomic addition for all pixels of a warp with the same winner.
        const unsigned real_lanes = __ballot_sync(ALL, real), holding = __ballot_sync(ALL, holds);
        const unsigned same = __match_any_sync(ALL, winner);
        if (threadIdx.x == __ffs(same) - 1) {
            atomicAdd(won + winner, __popc(same & real_lanes));
            atomicAdd(held + winner, __popc(same & holding));
        }
    }
    if (real) winners[(size_t(blockIdx.z) * H + row) * W + column] = holds ? kept[winner] : VOID_QUERY;
    __syncthreads();
    for (int i = thread; i < num_kept; i += WARP * blockDim.y) {
        if (won[i]) atomicAdd(counts.won + kept[i], won[i]);
        if (covered[i]) atomicAdd(counts.covered + kept[i], covered[i]);
        if (held[i]) atomicAdd(counts.held + kept[i], held[i]);
    }
}

// Replaces winners by the ids of their segments and writes the segments' areas. Each block finds the segments by itself.
extern "C" __global__ void label(const Counts* all_counts, const int* category_ids, unsigned char* query_ids, int* areas) {
    wait_for_predecessor();
    __shared__ unsigned char segment[VOID_QUERY + 1];
    __shared__ bool found[QUERIES];
    __shared__ int category[QUERIES], area[QUERIES];
    const Counts& counts = all_counts[blockIdx.y];
    query_ids += size_t(blockIdx.y) * H * W;
    for (int query = threadIdx.x; query <= VOID_QUERY; query += blockDim.x) {
        segment[query] = VOID_QUERY;
        if (query >= QUERIES) continue;
        category[query] = category_ids[blockIdx.y * QUERIES + query];
        area[query] = 0;
        found[query] = counts.held[query] > 0 &&
                       float(counts.won[query]) / max(counts.covered[query], 1) >= OVERLAP_THRESHOLD;
    }
    __syncthreads();
    for (int query = threadIdx.x; query < QUERIES; query += blockDim.x) {
        if (!found[query]) continue;
        int first = query;
        // Stuff of one class is one segment, under the first of its queries.
        if (category[query] > THINGS)
            for (first = 0; !(found[first] && category[first] == category[query]);) ++first;
        segment[query] = first;
        atomicAdd(area + first, counts.held[query]);
    }
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < H * W; i += gridDim.x * blockDim.x)
        query_ids[i] = segment[query_ids[i]];
    if (blockIdx.x == 0)
        for (int query = threadIdx.x; query < QUERIES; query += blockDim.x)
            areas[blockIdx.y * QUERIES + query] = area[query];
}
