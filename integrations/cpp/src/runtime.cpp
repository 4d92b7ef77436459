#include "runtime.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <set>

namespace v2e {
namespace {

constexpr std::uint64_t kAlignment = 256;
// From cuda.h.
constexpr unsigned kStreamNonBlocking = 1;
constexpr int kMaxDynamicSharedBytes = 8, kCaptureThreadLocal = 1, kProgrammaticStreamSerialization = 6;

std::uint64_t aligned(std::uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

struct Span {  // memory that the steps `first` to `last`, both included, need
  std::size_t first, last;
  std::uint64_t bytes;
};

// The offset of each span in one block, the largest placed first; see stages/engines/cuda/memory.py.
std::vector<std::uint64_t> place(const std::vector<Span>& spans) {
  std::vector<std::size_t> order(spans.size()), placed;
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return spans[a].bytes > spans[b].bytes; });
  std::vector<std::uint64_t> offsets(spans.size(), 0);
  for (std::size_t i : order) {
    std::vector<std::size_t> others;
    for (std::size_t k : placed)
      if (spans[k].first <= spans[i].last && spans[i].first <= spans[k].last) others.push_back(k);
    std::stable_sort(others.begin(), others.end(), [&](auto a, auto b) { return offsets[a] < offsets[b]; });
    for (std::size_t k : others) {
      if (offsets[i] + spans[i].bytes <= offsets[k]) break;
      offsets[i] = std::max(offsets[i], aligned(offsets[k] + spans[k].bytes));
    }
    placed.push_back(i);
  }
  return offsets;
}

bool supports_early_launches(const Gpu& gpu) {
  int major = 0, minor = 0;
  std::sscanf(gpu.cuda.c_str(), "%d.%d", &major, &minor);
  return std::atoi(gpu.compute_capability.c_str()) >= 9 && (major > 12 || (major == 12 && minor >= 3)) &&
         Driver::get().cuLaunchKernelEx;
}

}  // namespace

Layout::Layout(const Engine& engine) {
  const auto fail = [&](const std::string& what) {
    throw Failure(V2E_FILE,
                  engine.path + ": " + what + "; copy it again, or build it again by `make engines TARGET=...`");
  };
  std::map<std::string, Spec> known;
  std::map<std::string, std::pair<std::size_t, std::size_t>> used;  // the first and the last kernel of each tensor
  std::vector<std::string> order, inputs;
  std::set<std::string> read, written;
  const auto add = [&](const std::string& name, const Spec& spec) {
    const bool added = known.emplace(name, spec).second;
    if (added) order.push_back(name);
    return added;
  };
  for (const Constant& constant : engine.constants) add(constant.name, constant.spec);
  for (std::size_t i = 0; i < engine.kernels.size(); ++i) {
    const Kernel& kernel = engine.kernels[i];
    for (const std::string& name : kernel.inputs) {
      const Spec& spec = kernel.tensors.at(name);
      // A tensor that a kernel reads and no earlier one writes is an input of the engine.
      if (add(name, spec)) inputs.push_back(name);
      if (known.at(name) != spec) fail(shown(name) + " is written with another shape or type than it is read with");
      read.insert(name);
    }
    for (const std::string& name : kernel.outputs) {
      if (!add(name, kernel.tensors.at(name))) fail(shown(name) + " must be written by one kernel");
      written.insert(name);
    }
    for (const auto& tensor : kernel.tensors) used.emplace(tensor.first, std::make_pair(i, i)).first->second.second = i;
  }
  if (inputs.size() != 1) fail("one input is needed, found " + std::to_string(inputs.size()));
  input = inputs[0];
  input_spec = known.at(input);
  std::vector<std::string> between;
  std::vector<Span> spans;
  for (const std::string& name : order) {
    if (!written.count(name)) continue;
    if (read.count(name)) {
      between.push_back(name);
      spans.push_back({used[name].first, used[name].second, known[name].bytes});
    } else {
      outputs.emplace_back(name, known[name]);
    }
  }
  for (std::size_t i = 0; i < engine.kernels.size(); ++i) {
    std::uint64_t size = 0;
    for (std::uint64_t workspace : engine.kernels[i].workspace_bytes) size += aligned(workspace);
    spans.push_back({i, i, size});
  }
  const std::vector<std::uint64_t> offsets = place(spans);
  for (std::size_t i = 0; i < between.size(); ++i) shared[between[i]] = offsets[i];
  scratch.assign(offsets.begin() + static_cast<std::ptrdiff_t>(between.size()), offsets.end());
  for (std::size_t i = 0; i < spans.size(); ++i) bytes = std::max(bytes, offsets[i] + spans[i].bytes);
}

namespace {

struct Buffer {  // a tensor in device memory, and a pinned copy of it in host memory
  explicit Buffer(std::uint64_t size) : bytes(size) {
    V2E_CALL(cuMemAlloc_v2, device.out(), size);
    V2E_CALL(cuMemAllocHost_v2, host.out(), size);
  }
  void upload(void* stream) const { V2E_CALL(cuMemcpyHtoDAsync_v2, device.get(), host.get(), bytes, stream); }
  void download(void* stream) const { V2E_CALL(cuMemcpyDtoHAsync_v2, host.get(), device.get(), bytes, stream); }

  std::uint64_t bytes;
  Owned<Address> device{Driver::get().cuMemFree_v2};
  Owned<void*> host{Driver::get().cuMemFreeHost};
};

}  // namespace

// The buffers of one batch in flight, and the CUDA graph of the work that is queued for it.
struct Runtime::Slot {
  explicit Slot(const Layout& layout) : input(layout.input_spec.bytes) {
    for (const auto& output : layout.outputs) outputs.emplace_back(output.second.bytes);
    for (Owned<void*>* event : {&uploaded, &computed, &done}) V2E_CALL(cuEventCreate, event->out(), 0);
  }
  Buffer input;
  std::vector<Buffer> outputs;
  Owned<void*> uploaded{Driver::get().cuEventDestroy_v2}, computed{Driver::get().cuEventDestroy_v2};
  Owned<void*> done{Driver::get().cuEventDestroy_v2};
  Owned<void*> graph{Driver::get().cuGraphExecDestroy};
};

// All that the driver gave. It is freed in the opposite order, with the context current.
struct Runtime::Parts {
  const Driver& driver = Driver::get();
  bool early_launches = supports_early_launches(Gpu::current());
  std::map<std::string, Owned<void*>> modules;                     // by the names of their code
  std::map<std::pair<std::string, std::string>, void*> functions;  // of a module
  Owned<Address> constants{driver.cuMemFree_v2}, block{driver.cuMemFree_v2};
  std::vector<Owned<void*>> streams;  // for the copies to the device, the computation, and the copies from the device
  std::vector<std::unique_ptr<Slot>> slots;

  Parts(const Engine& engine, const Layout& layout) {
    for (const std::string& name : engine.code_names) {
      const std::string code(engine.code(name));  // PTX must end with a 0, which a string has
      V2E_CALL(cuModuleLoadData, modules.emplace(name, driver.cuModuleUnload).first->second.out(), code.c_str());
    }
    if (!engine.data.empty()) {
      V2E_CALL(cuMemAlloc_v2, constants.out(), engine.data.size());
      V2E_CALL(cuMemcpyHtoD_v2, constants.get(), engine.data.data(), engine.data.size());
      // From memory that is not pinned the call may return before the copy is done.
      V2E_CALL(cuStreamSynchronize, nullptr);
    }
    V2E_CALL(cuMemAlloc_v2, block.out(), std::max<std::uint64_t>(layout.bytes, 1));
    for (int i = 0; i < 3; ++i)
      V2E_CALL(cuStreamCreate, streams.emplace_back(driver.cuStreamDestroy_v2).out(), kStreamNonBlocking);
  }

  void* function(const std::string& code, const Launch& launch) {
    const auto [entry, added] = functions.emplace(std::make_pair(code, launch.function), nullptr);
    if (added) {
      V2E_CALL(cuModuleGetFunction, &entry->second, modules.at(code).get(), launch.function.c_str());
      if (launch.shared_bytes)
        V2E_CALL(cuFuncSetAttribute, entry->second, kMaxDynamicSharedBytes, static_cast<int>(launch.shared_bytes));
    }
    return entry->second;
  }

  // Queue a launch. With `early` it may begin before the kernel that was queued before it has ended.
  void launch(const Launch& launch, void* function, std::vector<Address>& values, void* stream, bool early) const {
    std::vector<void*> arguments;
    for (Address& value : values) arguments.push_back(&value);
    const unsigned* size = launch.size;
    if (!early) {
      V2E_CALL(cuLaunchKernel, function, size[0], size[1], size[2], size[3], size[4], size[5], launch.shared_bytes,
               stream, arguments.data(), nullptr);
      return;
    }
    LaunchAttribute attribute{kProgrammaticStreamSerialization, 0, 1, {}};
    const LaunchConfig config{
        {size[0], size[1], size[2], size[3], size[4], size[5]}, launch.shared_bytes, stream, &attribute, 1};
    V2E_CALL(cuLaunchKernelEx, &config, function, arguments.data(), nullptr);
  }

  // Queue the work for a slot, with its copies where they have no streams of their own.
  void enqueue(const Engine& engine, const Layout& layout, const Slot& slot, void* stream, bool with_copies) {
    std::map<std::string, Address> addresses = {{layout.input, slot.input.device.get()}};
    for (std::size_t i = 0; i < slot.outputs.size(); ++i)
      addresses[layout.outputs[i].first] = slot.outputs[i].device.get();
    for (const Constant& constant : engine.constants) addresses[constant.name] = constants.get() + constant.offset;
    for (const auto& tensor : layout.shared) addresses[tensor.first] = block.get() + tensor.second;
    if (with_copies) slot.input.upload(stream);
    for (std::size_t i = 0; i < engine.kernels.size(); ++i) {
      const Kernel& kernel = engine.kernels[i];
      std::vector<Address> workspaces;
      Address end = block.get() + layout.scratch[i];
      for (std::uint64_t size : kernel.workspace_bytes) {
        workspaces.push_back(end);
        end += aligned(size);
      }
      for (std::size_t k = 0; k < kernel.launches.size(); ++k) {
        std::vector<Address> values;
        for (const auto& [kind, number] : kernel.launches[k].arguments)
          values.push_back(kind == 'w' ? workspaces[number]
                                       : addresses.at((kind == 'i' ? kernel.inputs : kernel.outputs)[number]));
        // The first launch of a batch waits for the copies before it.
        launch(kernel.launches[k], function(kernel.code, kernel.launches[k]), values, stream,
               early_launches && (i || k));
      }
    }
    if (with_copies)
      for (const Buffer& output : slot.outputs) output.download(stream);
  }

  void capture(const Engine& engine, const Layout& layout, Slot& slot, bool with_copies) {
    void* stream = streams[1].get();
    // Once without a graph: it loads what the driver loads late, which a capture forbids, and shows errors of kernels.
    enqueue(engine, layout, slot, stream, with_copies);
    V2E_CALL(cuStreamSynchronize, stream);
    Owned<void*> captured(driver.cuGraphDestroy);
    V2E_CALL(cuStreamBeginCapture_v2, stream, kCaptureThreadLocal);
    try {
      enqueue(engine, layout, slot, stream, with_copies);
    } catch (...) {
      driver.cuStreamEndCapture(stream, captured.out());  // but raise the first error and not the one that this causes
      throw;
    }
    V2E_CALL(cuStreamEndCapture, stream, captured.out());
    V2E_CALL(cuGraphInstantiateWithFlags, slot.graph.out(), captured.get(), 0);
  }
};

Runtime::Runtime(const Engine& engine, const Layout& layout, std::uint32_t in_flight) {
  const Context::Current current(context_);
  try {
    parts_ = std::make_unique<Parts>(engine, layout);
    for (std::uint32_t i = 0; i < in_flight; ++i) {
      parts_->slots.push_back(std::make_unique<Slot>(layout));
      parts_->capture(engine, layout, *parts_->slots.back(), in_flight == 1);
    }
  } catch (...) {
    parts_.reset();  // while the context is current
    throw;
  }
}

Runtime::~Runtime() {
  try {
    const Context::Current current(context_);
    for (const Owned<void*>& stream : parts_->streams) parts_->driver.cuStreamSynchronize(stream.get());
    parts_.reset();
  } catch (const std::exception&) {
    // The context is gone, and with it all of this. The same addresses may belong to another context now.
    static_cast<void>(parts_.release());
  }
}

Runtime::Slot& Runtime::free_slot() const {
  const std::size_t count = parts_->slots.size();
  if (in_flight_ == count)
    throw Failure(V2E_BUSY, std::to_string(count) + " batches are in flight, and no more may be; take a result first");
  return *parts_->slots[next_in_];
}

std::uint8_t* Runtime::input() {
  const std::lock_guard<std::mutex> lock(submitting_);
  return static_cast<std::uint8_t*>(free_slot().input.host.get());
}

void Runtime::submit(const std::uint8_t* frames, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(submitting_);
  Slot& slot = free_slot();
  if (bytes != slot.input.bytes)
    throw Failure(V2E_INVALID, "this engine takes " + std::to_string(slot.input.bytes) + " bytes, found " +
                                   std::to_string(bytes) + "; give it batch_size frames of height_px x width_px x 3");
  if (frames != slot.input.host.get()) std::memcpy(slot.input.host.get(), frames, bytes);
  const Context::Current current(context_);
  void *copies_in = parts_->streams[0].get(), *computation = parts_->streams[1].get(),
       *copies_out = parts_->streams[2].get();
  const bool overlap = parts_->slots.size() > 1;
  if (overlap) {
    slot.input.upload(copies_in);
    V2E_CALL(cuEventRecord, slot.uploaded.get(), copies_in);
    V2E_CALL(cuStreamWaitEvent, computation, slot.uploaded.get(), 0);
  }
  V2E_CALL(cuGraphLaunch, slot.graph.get(), computation);
  if (overlap) {
    V2E_CALL(cuEventRecord, slot.computed.get(), computation);
    V2E_CALL(cuStreamWaitEvent, copies_out, slot.computed.get(), 0);
    for (const Buffer& output : slot.outputs) output.download(copies_out);
  }
  V2E_CALL(cuEventRecord, slot.done.get(), overlap ? copies_out : computation);
  next_in_ = (next_in_ + 1) % parts_->slots.size();
  ++in_flight_;
}

void Runtime::result(void* const* outputs) {
  const std::lock_guard<std::mutex> lock(taking_);
  if (in_flight_ == 0) throw Failure(V2E_EMPTY, "no batch is in flight; submit one first");
  const Slot& slot = *parts_->slots[next_out_];
  const Context::Current current(context_);
  const int status = parts_->driver.cuEventSynchronize(slot.done.get());
  for (std::size_t i = 0; status == 0 && i < slot.outputs.size(); ++i)
    std::memcpy(outputs[i], slot.outputs[i].host.get(), slot.outputs[i].bytes);
  next_out_ = (next_out_ + 1) % parts_->slots.size();
  --in_flight_;  // from here on the slot may be another batch's
  parts_->driver.check(status, "cuEventSynchronize");
}

}  // namespace v2e
