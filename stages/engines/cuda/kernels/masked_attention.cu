// The operator MaskedAttention: Mask2Former's masked attention (arXiv:2112.01527, section 3.2.1). A query attends where its
// mask logit is not below zero, and everywhere where all its mask logits are below zero. Each block takes a chunk of the
// keys. The chunks' results are added up at the end (as in flash decoding), so no score is written to memory.
//
// query [B, QUERIES, HEADS, DEPTH], key and value [B, LENGTH, HEADS, DEPTH], mask [B, QUERIES, LENGTH] -> attended
// [B, QUERIES, HEADS, DEPTH]; all of type T. Without MASKED there is no mask. Query, key and value may be columns of wider
// rows: of *_STRIDE channels, from *_FIRST on. The caller defines HALF, MASKED, QUERIES, HEADS, DEPTH, LENGTH, CHUNK_SIZE,
// *_STRIDE and *_FIRST.

#include "types.cuh"

constexpr int CHUNK = CHUNK_SIZE;
constexpr int CHUNKS = (LENGTH + CHUNK - 1) / CHUNK;
constexpr int CHANNELS = HEADS * DEPTH;
constexpr int TILES = (QUERIES + 15) / 16;  // of 16 queries, a warp for each
constexpr int THREADS = 32 * TILES;
static_assert(DEPTH % VECTOR == 0, "a head's channels must fill vectors of 16 bytes");

// The result of a chunk for one query and head: the largest score, and sums of exponentials relative to it.
struct Partial {
    float largest, sum, total[DEPTH];
};

// The keys of a chunk that a query may attend to: a bit for each key.
struct alignas(CHUNK / 8) AllowedKeys {
    unsigned char keys[CHUNK / 8];
};

// The allowed keys of a query, in the chunk that begins with key `first`.
__device__ inline AllowedKeys allowed_keys(const AllowedKeys* allowed, int row, int first) {
    if (MASKED) return allowed[row * CHUNKS];
    AllowedKeys all;
#pragma unroll
    for (int i = 0; i < CHUNK / 8; ++i) all.keys[i] = (1 << min(max(LENGTH - first - 8 * i, 0), 8)) - 1;
    return all;
}

// Packs the mask of a query into bits, all of them set if none is. A block for each query.
extern "C" __global__ void pack_mask(const T* mask, AllowedKeys* __restrict__ allowed) {
    launch_dependents();
    wait_for_predecessor();
    const int row = blockIdx.y * QUERIES + blockIdx.x;
    mask += size_t(row) * LENGTH;
    unsigned char* bytes = allowed[size_t(row) * CHUNKS].keys;
    int any = 0;
    for (int i = threadIdx.x; i < CHUNKS * CHUNK / 8; i += blockDim.x) {
        int byte = 0;
        if (HALF && LENGTH % 8 == 0 && 8 * i < LENGTH) {
            const Pack read(mask + 8 * i);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) byte |= !(to_float(read.each[k]) < 0) << k;
        } else {
            for (int k = 0; k < 8 && 8 * i + k < LENGTH; ++k) byte |= !(to_float(mask[8 * i + k]) < 0) << k;
        }
        bytes[i] = byte;
        any |= byte;
    }
    if (__syncthreads_or(any)) return;
    for (int i = threadIdx.x; i < CHUNKS * CHUNK / 8; i += blockDim.x)
        bytes[i] = (1 << min(max(LENGTH - 8 * i, 0), 8)) - 1;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attend(const T* query, const T* key, const T* value, const AllowedKeys* allowed, Partial* __restrict__ partials,
           T* __restrict__ attended) {
    wait_for_predecessor();
    const int first = blockIdx.x * CHUNK, head = blockIdx.y, image = blockIdx.z;
    query += size_t(image) * QUERIES * QUERY_STRIDE + QUERY_FIRST + head * DEPTH;
    key += size_t(image) * LENGTH * KEY_STRIDE + KEY_FIRST + head * DEPTH;
    value += size_t(image) * LENGTH * VALUE_STRIDE + VALUE_FIRST + head * DEPTH;
    attended += size_t(image) * QUERIES * CHANNELS + head * DEPTH;
    if (MASKED) allowed += size_t(image) * QUERIES * CHUNKS + blockIdx.x;
    partials += (size_t(image * HEADS + head) * CHUNKS + blockIdx.x) * QUERIES;
    const float scale = rsqrtf(float(DEPTH));
#if HALF
    constexpr int PADDED_DEPTH = (DEPTH + 15) / 16 * 16;
    constexpr int ROW_LENGTH = PADDED_DEPTH + 8;  // of a row in shared memory; the extra columns avoid bank conflicts
    __shared__ alignas(16) T queries[TILES * 16][ROW_LENGTH], keys[CHUNK][ROW_LENGTH], values[CHUNK][ROW_LENGTH];
    constexpr int VECTORS = PADDED_DEPTH / VECTOR;
    for (int i = threadIdx.x; i < TILES * 16 * VECTORS; i += THREADS) {
        const int row = i / VECTORS, channel = i % VECTORS * VECTOR;
        const bool real = row < QUERIES && channel < DEPTH;
        (real ? Pack(query + row * QUERY_STRIDE + channel) : Pack()).write(&queries[row][channel]);
    }
    for (int i = threadIdx.x; i < CHUNK * VECTORS; i += THREADS) {
        const int row = i / VECTORS, channel = i % VECTORS * VECTOR;
        const bool real = first + row < LENGTH && channel < DEPTH;
        const size_t at = first + row;
        (real ? Pack(key + at * KEY_STRIDE + channel) : Pack()).write(&keys[row][channel]);
        (real ? Pack(value + at * VALUE_STRIDE + channel) : Pack()).write(&values[row][channel]);
    }
    __syncthreads();

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4 * 2;
    float scores[CHUNK / 8][4] = {};
    score<PADDED_DEPTH>(scores, queries + warp * 16, keys, lane);
    float largest[2] = {-INFINITY, -INFINITY}, sums[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = min(warp * 16 + g + i * 8, QUERIES - 1);
        const AllowedKeys own = allowed_keys(allowed, row, first);
#pragma unroll
        for (int j = 0; j < CHUNK / 8; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float& score = scores[j][2 * i + k];
                score = own.keys[j] >> (t + k) & 1 ? score * scale : -INFINITY;
                largest[i] = fmaxf(largest[i], score);
            }
    }
    exponentiate<true>(scores, largest, sums);

    float total[PADDED_DEPTH / 8][4] = {};
    weighted_sum(total, scores, values, lane);
    launch_dependents();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = warp * 16 + g + i * 8;
        if (row >= QUERIES) continue;
        if (CHUNKS == 1) {
#pragma unroll
            for (int j = 0; j < DEPTH / 8; ++j)
                *reinterpret_cast<unsigned*>(attended + row * CHANNELS + j * 8 + t) =
                    pack_pair(total[j][2 * i] / sums[i], total[j][2 * i + 1] / sums[i]);
            continue;
        }
        if (t == 0) partials[row].largest = largest[i], partials[row].sum = sums[i];
#pragma unroll
        for (int j = 0; j < DEPTH / 8; ++j)
            *reinterpret_cast<float2*>(partials[row].total + j * 8 + t) = make_float2(total[j][2 * i], total[j][2 * i + 1]);
    }
#else
    // In float32 without tensor cores: a thread for each query.
    __shared__ float keys[CHUNK][DEPTH], values[CHUNK][DEPTH];
    for (int i = threadIdx.x; i < CHUNK * DEPTH; i += THREADS) {
        const int row = i / DEPTH, channel = i % DEPTH;
        const size_t at = first + row;
        keys[row][channel] = at < LENGTH ? key[at * KEY_STRIDE + channel] : 0;
        values[row][channel] = at < LENGTH ? value[at * VALUE_STRIDE + channel] : 0;
    }
    __syncthreads();
    const int row = threadIdx.x;
    if (row >= QUERIES) return;
    const AllowedKeys visible = allowed_keys(allowed, row, first);
    float own[DEPTH], total[DEPTH] = {}, largest = -INFINITY, sum = 0;
    for (int c = 0; c < DEPTH; ++c) own[c] = query[row * QUERY_STRIDE + c] * scale;
    for (int at = 0; at < CHUNK; ++at) {
        if (!(visible.keys[at / 8] >> at % 8 & 1)) continue;
        float score = 0;
        for (int c = 0; c < DEPTH; ++c) score += own[c] * keys[at][c];
        const float above = fmaxf(largest, score), shrink = expf(largest - above), weight = expf(score - above);
        largest = above, sum = sum * shrink + weight;
        for (int c = 0; c < DEPTH; ++c) total[c] = total[c] * shrink + weight * values[at][c];
    }
    if (CHUNKS == 1) {
        for (int c = 0; c < DEPTH; ++c) attended[row * CHANNELS + c] = total[c] / sum;
        return;
    }
    partials[row].largest = largest, partials[row].sum = sum;
    for (int c = 0; c < DEPTH; ++c) partials[row].total[c] = total[c];
#endif
}

// Adds the chunks' results up. A block of WARPS warps for each query and head; the warps share the chunks.
constexpr int WARPS = 8;

extern "C" __global__ void reduce_chunks(const Partial* partials, T* __restrict__ attended) {
    launch_dependents();
    wait_for_predecessor();
    __shared__ float largests[WARPS], sums[WARPS], totals[WARPS][DEPTH];
    const int row = blockIdx.x, head = blockIdx.y, image = blockIdx.z;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    partials += size_t(image * HEADS + head) * CHUNKS * QUERIES + row;
    float largest = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < CHUNKS; i += 32 * WARPS) largest = fmaxf(largest, partials[size_t(i) * QUERIES].largest);
    for (int step = 16; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    if (lane == 0) largests[warp] = largest;
    __syncthreads();
    for (int i = 0; i < WARPS; ++i) largest = fmaxf(largest, largests[i]);
    for (int i = threadIdx.x; i < CHUNKS; i += 32 * WARPS) {
        const Partial& one = partials[size_t(i) * QUERIES];
        sum += one.sum * __expf(one.largest - largest);
    }
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) sums[warp] = sum;
    for (int c = lane; c < DEPTH; c += 32) {
        float total = 0;
#pragma unroll 4
        for (int i = warp; i < CHUNKS; i += WARPS) {
            const Partial& one = partials[size_t(i) * QUERIES];
            total += one.total[c] * __expf(one.largest - largest);
        }
        totals[warp][c] = total;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < DEPTH; c += 32 * WARPS) {
        float total = 0, weight = 0;
        for (int i = 0; i < WARPS; ++i) total += totals[i][c], weight += sums[i];
        attended[(size_t(image) * QUERIES + row) * CHANNELS + head * DEPTH + c] = from_float(total / weight);
    }
}
