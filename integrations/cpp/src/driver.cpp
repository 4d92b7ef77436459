#include "driver.hpp"

#include <dlfcn.h>

namespace v2e {
namespace {

constexpr int kStubLibrary = 34, kNoDevice = 100;            // errors
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;  // attributes of a device

Driver load() {
  const char* const kNone = "found no NVIDIA GPU or no driver; run it where nvidia-smi lists the GPU";
  // It stays loaded until the process ends, as other users of CUDA in the process expect.
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) throw Failure(V2E_NO_GPU, kNone);
  Driver driver;
#define V2E_LOAD(name, arguments)                                                   \
  if (!(driver.name = reinterpret_cast<int(*) arguments>(::dlsym(library, #name)))) \
    throw Failure(V2E_CUDA, "libcuda.so.1 has no " #name "; install a driver of CUDA 12 or later");
  V2E_DRIVER_FUNCTIONS(V2E_LOAD)
#undef V2E_LOAD
  driver.cuLaunchKernelEx =
      reinterpret_cast<int (*)(const LaunchConfig*, void*, void**, void**)>(::dlsym(library, "cuLaunchKernelEx"));
  const int status = driver.cuInit(0);
  if (status == kStubLibrary || status == kNoDevice) throw Failure(V2E_NO_GPU, kNone);
  if (status)
    throw Failure(V2E_CUDA, "cuInit: CUDA error " + std::to_string(status) +
                                "; repair the NVIDIA driver until nvidia-smi lists the GPU");
  return driver;
}

}  // namespace

const Driver& Driver::get() {
  static const Driver driver = load();  // once for all threads; after a failure the next call tries again
  return driver;
}

void Driver::check(int status, const char* name) const {
  if (status == 0) return;
  const char* text = nullptr;
  cuGetErrorString(status, &text);
  throw Failure(V2E_CUDA, std::string(name) + ": " + (text ? text : "unknown error") + " (CUDA error " +
                              std::to_string(status) + ")");
}

Gpu Gpu::current() {
  void* context = nullptr;
  int device = 0, major = 0, minor = 0, version = 0;
  char name[256] = {};
  V2E_CALL(cuCtxGetCurrent, &context);
  if (context)
    V2E_CALL(cuCtxGetDevice, &device);
  else
    V2E_CALL(cuDeviceGet, &device, 0);
  V2E_CALL(cuDeviceGetName, name, static_cast<int>(sizeof name) - 1, device);
  V2E_CALL(cuDeviceGetAttribute, &major, kCapabilityMajor, device);
  V2E_CALL(cuDeviceGetAttribute, &minor, kCapabilityMinor, device);
  V2E_CALL(cuDriverGetVersion, &version);
  return {name, std::to_string(major) + "." + std::to_string(minor),
          std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10)};
}

Context::Context() {
  V2E_CALL(cuCtxGetCurrent, &handle_);
  if (handle_) return;
  V2E_CALL(cuDevicePrimaryCtxRetain, &handle_, 0);
  primary_ = true;
}

Context::~Context() {
  if (primary_) Driver::get().cuDevicePrimaryCtxRelease_v2(0);
}

}  // namespace v2e
