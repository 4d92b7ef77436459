// Runs an engine: its kernels as one CUDA graph, for one batch at a time or for several in flight, with the same calls
// of the driver as stages/engines/cuda/runtime.py.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "driver.hpp"
#include "engine_file.hpp"

namespace v2e {

// Where each tensor lies, found without a GPU.
struct Layout {
  // Raises Failure V2E_FILE where the kernels don't fit one another.
  explicit Layout(const Engine& engine);

  std::string input;
  Spec input_spec;
  std::vector<std::pair<std::string, Spec>> outputs;
  std::map<std::string, std::uint64_t> shared;  // tensors between kernels -> offset in the block that they share
  std::vector<std::uint64_t> scratch;           // offset there of each kernel's workspaces
  std::uint64_t bytes = 0;                      // of that block
};

class Runtime {
 public:
  // Loads an engine whose code is chosen, and runs it once. Raises Failure V2E_CUDA.
  Runtime(const Engine& engine, const Layout& layout, std::uint32_t in_flight);
  ~Runtime();

  // See v2e_input, v2e_submit and v2e_result. They raise Failure.
  std::uint8_t* input();
  void submit(const std::uint8_t* frames, std::size_t bytes);
  void result(void* const* outputs);

 private:
  struct Parts;
  struct Slot;

  Slot& free_slot() const;

  Context context_;
  std::unique_ptr<Parts> parts_;
  // One thread submits and one takes results at a time. Slots are used in turn, so a count is all that both share.
  std::mutex submitting_, taking_;
  std::size_t next_in_ = 0, next_out_ = 0;
  std::atomic<std::size_t> in_flight_{0};
};

}  // namespace v2e
