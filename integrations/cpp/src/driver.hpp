// CUDA's driver API, opened by dlopen when it is first needed. Types and values are those of cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "json.hpp"

namespace v2e {

using Address = unsigned long long;  // in device memory

struct alignas(8) LaunchAttribute {
  int id, pad, value;
  char more[60];
};

struct LaunchConfig {
  unsigned size[6];  // grid x, y, z, block x, y, z
  unsigned shared_bytes;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56, "not as in cuda.h of a 64-bit CPU");

// name, arguments
#define V2E_DRIVER_FUNCTIONS(F)                                       \
  F(cuInit, (unsigned))                                               \
  F(cuDeviceGet, (int*, int))                                         \
  F(cuDeviceGetName, (char*, int, int))                               \
  F(cuDeviceGetAttribute, (int*, int, int))                           \
  F(cuDriverGetVersion, (int*))                                       \
  F(cuGetErrorString, (int, const char**))                            \
  F(cuCtxGetCurrent, (void**))                                        \
  F(cuCtxGetDevice, (int*))                                           \
  F(cuCtxPushCurrent_v2, (void*))                                     \
  F(cuCtxPopCurrent_v2, (void**))                                     \
  F(cuDevicePrimaryCtxRetain, (void**, int))                          \
  F(cuDevicePrimaryCtxRelease_v2, (int))                              \
  F(cuMemAlloc_v2, (Address*, std::size_t))                           \
  F(cuMemFree_v2, (Address))                                          \
  F(cuMemAllocHost_v2, (void**, std::size_t))                         \
  F(cuMemFreeHost, (void*))                                           \
  F(cuStreamCreate, (void**, unsigned))                               \
  F(cuStreamSynchronize, (void*))                                     \
  F(cuStreamDestroy_v2, (void*))                                      \
  F(cuStreamWaitEvent, (void*, void*, unsigned))                      \
  F(cuStreamBeginCapture_v2, (void*, int))                            \
  F(cuStreamEndCapture, (void*, void**))                              \
  F(cuMemcpyHtoD_v2, (Address, const void*, std::size_t))             \
  F(cuMemcpyHtoDAsync_v2, (Address, const void*, std::size_t, void*)) \
  F(cuMemcpyDtoHAsync_v2, (void*, Address, std::size_t, void*))       \
  F(cuGraphInstantiateWithFlags, (void**, void*, unsigned long long)) \
  F(cuGraphLaunch, (void*, void*))                                    \
  F(cuGraphDestroy, (void*))                                          \
  F(cuGraphExecDestroy, (void*))                                      \
  F(cuEventCreate, (void**, unsigned))                                \
  F(cuEventRecord, (void*, void*))                                    \
  F(cuEventSynchronize, (void*))                                      \
  F(cuEventDestroy_v2, (void*))                                       \
  F(cuModuleLoadData, (void**, const void*))                          \
  F(cuModuleUnload, (void*))                                          \
  F(cuModuleGetFunction, (void**, void*, const char*))                \
  F(cuFuncSetAttribute, (void*, int, int))                            \
  F(cuLaunchKernel,                                                   \
    (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**))

struct Driver {
#define V2E_MEMBER(name, arguments) int(*name) arguments = nullptr;
  V2E_DRIVER_FUNCTIONS(V2E_MEMBER)
#undef V2E_MEMBER
  int (*cuLaunchKernelEx)(const LaunchConfig*, void*, void**, void**) = nullptr;  // since CUDA 11.8

  // Raises Failure V2E_NO_GPU where there is no driver or no GPU, and V2E_CUDA where it does not work.
  static const Driver& get();
  // Raises Failure V2E_CUDA with the name and CUDA's message where a call failed.
  void check(int status, const char* name) const;
};

#define V2E_CALL(name, ...) ::v2e::Driver::get().check(::v2e::Driver::get().name(__VA_ARGS__), #name)

struct Gpu {
  std::string name, compute_capability, cuda;  // cuda: the newest version that the driver supports
  // The GPU of this thread's current context, or the first one where no context is current.
  static Gpu current();
};

// The context of a handle: this thread's current one, or the primary context of the first GPU where none is current.
class Context {
 public:
  Context();
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Makes it current in this thread, and at its end what was current before.
  class Current {
   public:
    explicit Current(const Context& context) { V2E_CALL(cuCtxPushCurrent_v2, context.handle_); }
    ~Current() {
      void* popped;
      Driver::get().cuCtxPopCurrent_v2(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
  };

 private:
  void* handle_ = nullptr;
  bool primary_ = false;
};

// A handle or an address of the driver, with the function that frees it.
template <typename T>
class Owned {
 public:
  explicit Owned(int (*free)(T)) : free_(free) {}
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, T{})), free_(other.free_) {}
  Owned& operator=(Owned&&) = delete;
  ~Owned() {
    if (value_) free_(value_);
  }
  T get() const { return value_; }
  T* out() { return &value_; }

 private:
  T value_{};
  int (*free_)(T);
};

}  // namespace v2e
