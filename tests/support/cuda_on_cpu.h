// Runs the CUDA C++ of a kernel on the CPU, so that its arithmetic is tested without a GPU: float32 only. Blocks run one after
// the other. The threads of a block are fibers that take turns at each barrier and each exchange within a warp. Shared
// memory is static, as one block runs at a time.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#undef INFINITY  // types.cuh has its own
#define __global__
#define __device__
#define __constant__ static
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

using std::max;
using std::min;
struct int4 { int x, y, z, w; };
struct float4 { float x, y, z, w; };
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline int __float_as_int(float value) { int bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class V> V atomicAdd(V* at, V value) { const V before = *at; *at += value; return before; }

struct Size { unsigned x, y, z; };
static Size threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static char dynamic_shared[1 << 20];

namespace cpu {
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 18);
    Size index;
    bool done;
    int waits_for;  // 0: nothing, 1: the warp, 2: the block
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int current;
static long long exchanged[2048];
static std::pair<void (*)(void**), void**> work;

inline void wait(int what) {
    fibers[current].waits_for = what;
    swapcontext(&fibers[current].context, &scheduler);
}
inline void start() {
    work.first(work.second);
    fibers[current].done = true;
    swapcontext(&fibers[current].context, &scheduler);
}
// True if all threads from `first` to `last` that still run wait for `what` or for more.
inline bool arrived(int first, int last, int what) {
    for (int i = first; i < last; ++i)
        if (!fibers[i].done && fibers[i].waits_for < what) return false;
    return true;
}
inline void run_block(int count) {
    for (int i = 0; i < count; ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = false, fiber.waits_for = 0;
        fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data(), fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, start, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (current = 0; current < count; ++current) {
            Fiber& fiber = fibers[current];
            if (fiber.done || fiber.waits_for) continue;
            threadIdx = fiber.index;
            swapcontext(&scheduler, &fiber.context);
        }
        for (int i = 0; i < count; ++i) running |= !fibers[i].done;
        for (int first = 0; first < count; first += 32) {
            const int last = min(first + 32, count);
            if (arrived(first, last, 1))
                for (int i = first; i < last; ++i)
                    if (fibers[i].waits_for == 1) fibers[i].waits_for = 0;
        }
        if (arrived(0, count, 2))
            for (Fiber& fiber : fibers) fiber.waits_for = 0;
    }
}
template <class V> V exchange(V value, int lane) {
    exchanged[current] = 0;
    std::memcpy(exchanged + current, &value, sizeof value);
    wait(1);
    std::memcpy(&value, exchanged + current / 32 * 32 + lane, sizeof value);
    wait(1);
    return value;
}
// A bit for each lane of the warp that gives the same value.
inline unsigned same(long long value) {
    exchanged[current] = value;
    wait(1);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (!fibers[current / 32 * 32 + lane].done && exchanged[current / 32 * 32 + lane] == value) bits |= 1u << lane;
    wait(1);
    return bits;
}
inline void launch(void (*kernel)(void**), void** arguments, const unsigned* size) {
    gridDim = {size[0], size[1], size[2]}, blockDim = {size[3], size[4], size[5]};
    const int count = blockDim.x * blockDim.y * blockDim.z;
    if (int(fibers.size()) != count) fibers = std::vector<Fiber>(count);
    work = {kernel, arguments};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) run_block(count);
}
template <class... A, size_t... I> void call(void (*kernel)(A...), void** from, std::index_sequence<I...>) {
    kernel(static_cast<A>(from[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** from) {
    call(kernel, from, std::index_sequence_for<A...>());
}
}  // namespace cpu

inline void __syncthreads() { cpu::wait(2); }
inline void __syncwarp() { cpu::wait(1); }
template <class V> V __shfl_xor_sync(unsigned, V value, int step) {
    return cpu::exchange(value, (cpu::current % 32) ^ step);
}
inline unsigned __match_any_sync(unsigned, int value) { return cpu::same(value); }
inline unsigned __ballot_sync(unsigned, bool holds) {
    const unsigned alike = cpu::same(holds);
    return holds ? alike : ~alike & (cpu::fibers.size() % 32 ? (1u << cpu::fibers.size() % 32) - 1 : ~0u);
}

// The kernel NAME as a function that Python calls, with the addresses of its arguments and its grid and block.
#define LAUNCHER(NAME)                                                                   \
    extern "C" void launch_##NAME(void** arguments, const unsigned* size) {              \
        cpu::launch([](void** from) { cpu::call(NAME, from); }, arguments, size);        \
    }
