// Decodes the outputs of an engine into maps of segments, as stages/inference/segments.py does.
#pragma once

#include <vector>

#include "engine_file.hpp"
#include "runtime.hpp"

namespace v2e {

class Decoder {
 public:
  // Raises Failure V2E_FILE unless input and outputs are those of the engine's mode.
  Decoder(const Engine& engine, const Layout& layout);

  std::uint32_t max_segments() const { return max_segments_; }
  // See v2e_segments.
  std::uint32_t decode(const void* const* outputs, std::size_t frame, std::int32_t* ids, v2e_segment* segments) const;

 private:
  // Frame `frame` of the output of a name.
  template <typename T>
  const T* output(const void* const* outputs, const char* name, std::size_t frame) const;

  v2e_mode mode_;
  std::size_t batch_size_, height_, width_, queries_ = 0;
  float score_threshold_;
  std::vector<std::pair<std::string, std::size_t>> frame_bytes_;  // name of each output, and its bytes for one frame
  std::uint32_t max_segments_;
};

}  // namespace v2e
