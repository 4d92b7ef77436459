// The operator WindowAttention: attention in the windows of Swin (arXiv:2103.14030, section 3.2). Padding, shift, partition
// and their reversal are done by address arithmetic; nothing is copied.
//
// qkv [B, HEIGHT * WIDTH, 3, HEADS, DEPTH], bias [3, HEADS, DEPTH] of its linear layer, position_bias [HEADS, N, N]
// with N = WINDOW^2 -> attended [B, HEIGHT * WIDTH, HEADS, DEPTH]; all of type T. Tokens of a window beyond the
// picture are zeros before the linear layer, so their qkv is its bias. Windows are shifted by SHIFT rows and columns. A
// block for each window and head. The caller defines HALF, HEIGHT, WIDTH, HEADS, DEPTH, WINDOW, SHIFT.

#include "types.cuh"

constexpr int N = WINDOW * WINDOW;
constexpr int ROWS = (HEIGHT + WINDOW - 1) / WINDOW, COLUMNS = (WIDTH + WINDOW - 1) / WINDOW;
constexpr int CHANNELS = HEADS * DEPTH;
constexpr int QUERY_TILES = (N + 15) / 16;  // of 16 queries, a warp for each
constexpr int THREADS = 32 * QUERY_TILES;
static_assert(DEPTH % VECTOR == 0, "a head's channels must fill vectors of 16 bytes");

// A token of a window: its index in the picture, or -1 beyond it, and its region. Tokens of different regions were joined by
// the shift and don't attend to each other.
struct Token {
    int index, region;
    __device__ Token(int token) {
        const int row = blockIdx.x / COLUMNS * WINDOW + token / WINDOW;
        const int column = blockIdx.x % COLUMNS * WINDOW + token % WINDOW;
        constexpr int height = ROWS * WINDOW, width = COLUMNS * WINDOW;
        const int y = (row + SHIFT) % height, x = (column + SHIFT) % width;
        index = y < HEIGHT && x < WIDTH ? y * WIDTH + x : -1;
        region = 0;
        if (SHIFT)
            region = 3 * ((row >= height - WINDOW) + (row >= height - SHIFT)) + (column >= width - WINDOW) +
                     (column >= width - SHIFT);
    }
};

constexpr float HIDDEN = -100;  // as in Swin, not minus infinity

#if HALF
constexpr int KEYS = (N + 15) / 16 * 16;
constexpr int PADDED_DEPTH = (DEPTH + 15) / 16 * 16;
constexpr int ROW_LENGTH = PADDED_DEPTH + 8;  // of a row in shared memory; the extra columns avoid bank conflicts

extern "C" __global__ void __launch_bounds__(THREADS)
    window_attention(const T* qkv, const T* bias, const T* __restrict__ position_bias,
                     T* __restrict__ attended) {
    wait_for_predecessor();
    __shared__ alignas(16) T queries[QUERY_TILES * 16][ROW_LENGTH], keys[KEYS][ROW_LENGTH], values[KEYS][ROW_LENGTH];
    __shared__ int indices[KEYS], regions[KEYS];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    qkv += size_t(blockIdx.z) * HEIGHT * WIDTH * 3 * CHANNELS;
    attended += size_t(blockIdx.z) * HEIGHT * WIDTH * CHANNELS;
    position_bias += head * N * N;

    // Rows and columns without a token must be zeros.
    for (int i = threadIdx.x; i < KEYS * (ROW_LENGTH / VECTOR); i += THREADS) {
        const int row = i / (ROW_LENGTH / VECTOR), column = i % (ROW_LENGTH / VECTOR) * VECTOR;
        if (row < N && column < DEPTH) continue;
        Pack().write(&queries[row][column]), Pack().write(&keys[row][column]), Pack().write(&values[row][column]);
    }
    for (int i = threadIdx.x; i < KEYS; i += THREADS) {
        const Token token(min(i, N - 1));
        indices[i] = token.index, regions[i] = token.region;
    }
    __syncthreads();
    constexpr int VECTORS = DEPTH / VECTOR;
    for (int i = threadIdx.x; i < N * 3 * VECTORS; i += THREADS) {
        const int token = i / (3 * VECTORS), which = i / VECTORS % 3, channel = i % VECTORS * VECTOR;
        const T* row = indices[token] < 0 ? bias : qkv + size_t(indices[token]) * 3 * CHANNELS;
        const Pack read(row + (which * HEADS + head) * DEPTH + channel);
        read.write(which == 0 ? &queries[token][channel] : which == 1 ? &keys[token][channel] : &values[token][channel]);
    }
    __syncthreads();

    const int g = lane / 4, t = lane % 4 * 2;  // a fragment's row and first column
    float scores[KEYS / 8][4] = {};
    score<PADDED_DEPTH>(scores, queries + warp * 16, keys, lane);
    const float scale = rsqrtf(float(DEPTH));
    float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int query = warp * 16 + g + i / 2 * 8, key = j * 8 + t + i % 2;
            if (key < N && query < N) {
                scores[j][i] = scores[j][i] * scale + to_float(position_bias[query * N + key]);
                if (SHIFT && regions[query] != regions[key]) scores[j][i] += HIDDEN;
            } else {
                scores[j][i] = key < N ? 0 : -INFINITY;
            }
            largest[i / 2] = fmaxf(largest[i / 2], scores[j][i]);
        }
    float sums[2] = {};
    exponentiate<false>(scores, largest, sums);

    float total[PADDED_DEPTH / 8][4] = {};
    weighted_sum(total, scores, values, lane);
    launch_dependents();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int query = warp * 16 + g + i * 8;
        if (query >= N || indices[query] < 0) continue;
        T* row = attended + size_t(indices[query]) * CHANNELS + head * DEPTH + t;
#pragma unroll
        for (int j = 0; j < DEPTH / 8; ++j)
            *reinterpret_cast<unsigned*>(row + j * 8) = pack_pair(total[j][2 * i] / sums[i], total[j][2 * i + 1] / sums[i]);
    }
}
#else
// In float32 without tensor cores: a thread for each query.
extern "C" __global__ void __launch_bounds__(THREADS)
    window_attention(const T* qkv, const T* bias, const T* __restrict__ position_bias,
                     T* __restrict__ attended) {
    wait_for_predecessor();
    __shared__ float keys[N][DEPTH], values[N][DEPTH];
    __shared__ int indices[N], regions[N];
    const int head = blockIdx.y;
    qkv += size_t(blockIdx.z) * HEIGHT * WIDTH * 3 * CHANNELS;
    attended += size_t(blockIdx.z) * HEIGHT * WIDTH * CHANNELS;
    for (int i = threadIdx.x; i < N; i += THREADS) {
        const Token token(i);
        indices[i] = token.index, regions[i] = token.region;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < N * DEPTH; i += THREADS) {
        const int token = i / DEPTH, channel = i % DEPTH;
        const T* row = (indices[token] < 0 ? bias : qkv + size_t(indices[token]) * 3 * CHANNELS) + head * DEPTH + channel;
        keys[token][channel] = row[CHANNELS], values[token][channel] = row[2 * CHANNELS];
    }
    __syncthreads();
    const int query = threadIdx.x;
    if (query >= N || indices[query] < 0) return;
    const T* own = qkv + size_t(indices[query]) * 3 * CHANNELS + head * DEPTH;
    float scores[N], largest = -INFINITY, sum = 0;
    for (int key = 0; key < N; ++key) {
        float product = 0;
        for (int c = 0; c < DEPTH; ++c) product += own[c] * keys[key][c];
        scores[key] = product * rsqrtf(float(DEPTH)) + position_bias[(head * N + query) * N + key];
        if (SHIFT && regions[query] != regions[key]) scores[key] += HIDDEN;
        largest = fmaxf(largest, scores[key]);
    }
    for (int key = 0; key < N; ++key) sum += scores[key] = expf(scores[key] - largest);
    for (int c = 0; c < DEPTH; ++c) {
        float total = 0;
        for (int key = 0; key < N; ++key) total += scores[key] * values[key][c];
        attended[size_t(indices[query]) * CHANNELS + head * DEPTH + c] = total / sum;
    }
}
#endif
