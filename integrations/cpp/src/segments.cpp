#include "segments.hpp"

#include <algorithm>
#include <numeric>

namespace v2e {

Decoder::Decoder(const Engine& engine, const Layout& layout)
    : mode_(engine.mode),
      batch_size_(static_cast<std::size_t>(engine.batch_size)),
      height_(static_cast<std::size_t>(engine.height_px)),
      width_(static_cast<std::size_t>(engine.width_px)),
      score_threshold_(engine.score_threshold) {
  const std::int64_t b = engine.batch_size, h = engine.height_px, w = engine.width_px;
  std::int64_t queries = 0;
  for (const auto& [name, spec] : layout.outputs) {
    frame_bytes_.emplace_back(name, spec.bytes / batch_size_);
    if (name == "scores" && spec.shape.size() == 2) queries = spec.shape[1];
  }
  std::vector<std::pair<std::string, Spec>> wanted;
  const auto want = [&](const char* name, std::vector<std::int64_t> shape, const char* dtype) {
    wanted.emplace_back(name, Spec{std::move(shape), dtype});
  };
  if (mode_ == V2E_SEMANTIC) {
    want("class_ids", {b, h, w}, "uint8");
  } else {
    want("scores", {b, queries}, "float32");
    want("category_ids", {b, queries}, "int32");
  }
  if (mode_ == V2E_PANOPTIC) {
    want("query_ids", {b, h, w}, "uint8");
    want("areas", {b, queries}, "int32");
  } else if (mode_ == V2E_INSTANCE) {
    want("mask_bits", {b, queries, h, (w + 7) / 8}, "uint8");
  }
  bool fits =
      layout.input_spec == Spec{{b, h, w, 3}, "uint8"} && (mode_ != V2E_PANOPTIC || queries <= 255) && queries < 65535;
  for (const auto& output : wanted) fits = fits && std::count(layout.outputs.begin(), layout.outputs.end(), output);
  if (!fits)
    throw Failure(V2E_FILE,
                  engine.path + ": input and outputs must be those of deploy in engine.json (docs/outputs.md)");
  queries_ = static_cast<std::size_t>(queries);
  max_segments_ = mode_ == V2E_SEMANTIC ? 255 : static_cast<std::uint32_t>(queries);
}

template <typename T>
const T* Decoder::output(const void* const* outputs, const char* name, std::size_t frame) const {
  std::size_t i = 0;
  while (frame_bytes_[i].first != name) ++i;
  return reinterpret_cast<const T*>(static_cast<const char*>(outputs[i]) + frame * frame_bytes_[i].second);
}

std::uint32_t Decoder::decode(const void* const* outputs, std::size_t frame, std::int32_t* ids,
                              v2e_segment* segments) const {
  if (frame >= batch_size_)
    throw Failure(V2E_INVALID,
                  "frame must be below " + std::to_string(batch_size_) + ", found " + std::to_string(frame));
  const std::size_t pixels = height_ * width_;
  std::vector<v2e_segment> found(max_segments_ + std::size_t{1});  // by id
  const auto add = [&](std::size_t id, std::int32_t category_id, float score) {
    found[id] = {static_cast<std::int32_t>(id), category_id, score, 0, {0, 0, 0, 0}};
  };
  if (mode_ == V2E_SEMANTIC) {
    for (std::size_t id = 1; id < found.size(); ++id) add(id, static_cast<std::int32_t>(id), -1);
    const auto* class_ids = output<std::uint8_t>(outputs, "class_ids", frame);
    std::copy(class_ids, class_ids + pixels, ids);
  } else {
    const auto* scores = output<float>(outputs, "scores", frame);
    const auto* category_ids = output<std::int32_t>(outputs, "category_ids", frame);
    if (mode_ == V2E_PANOPTIC) {
      const auto* areas = output<std::int32_t>(outputs, "areas", frame);
      std::int32_t segment_of[256] = {};
      std::int32_t last = 0;
      for (std::size_t q = 0; q < queries_; ++q) {
        if (!areas[q]) continue;
        segment_of[q] = ++last;
        add(static_cast<std::size_t>(last), category_ids[q], scores[q]);
      }
      const auto* query_ids = output<std::uint8_t>(outputs, "query_ids", frame);
      std::transform(query_ids, query_ids + pixels, ids, [&](std::uint8_t query) { return segment_of[query]; });
    } else {
      // From the lowest score above the threshold to the best, which is on top and has the id 1.
      std::vector<std::size_t> order;
      for (std::size_t k = 0; k < queries_; ++k)
        if (scores[k] > score_threshold_) order.push_back(k);
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] < scores[b]; });
      const auto* masks = output<std::uint8_t>(outputs, "mask_bits", frame);
      const std::size_t row_bytes = (width_ + 7) / 8;
      std::fill(ids, ids + pixels, 0);
      for (std::size_t i = 0; i < order.size(); ++i) {
        const std::size_t k = order[i], id = order.size() - i;
        add(id, category_ids[k], scores[k]);
        for (std::size_t y = 0; y < height_; ++y) {
          const std::uint8_t* row = masks + (k * height_ + y) * row_bytes;
          for (std::size_t x = 0; x < width_; ++x)
            if (row[x / 8] >> (7 - x % 8) & 1) ids[y * width_ + x] = static_cast<std::int32_t>(id);
        }
      }
    }
  }
  // bbox holds left, top, right and bottom until the end.
  for (std::size_t y = 0; y < height_; ++y) {
    for (std::size_t x = 0; x < width_; ++x) {
      const auto id = static_cast<std::size_t>(ids[y * width_ + x]);
      if (id == 0) continue;
      v2e_segment& segment = found[id];
      const auto column = static_cast<std::uint32_t>(x), row = static_cast<std::uint32_t>(y);
      if (segment.area_px++ == 0) {
        segment.bbox[0] = segment.bbox[2] = column;
        segment.bbox[1] = row;
      }
      segment.bbox[0] = std::min(segment.bbox[0], column);
      segment.bbox[2] = std::max(segment.bbox[2], column);
      segment.bbox[3] = row;
    }
  }
  std::uint32_t count = 0;
  for (v2e_segment& segment : found) {
    if (segment.area_px == 0) continue;
    segment.bbox[2] -= segment.bbox[0] - 1;
    segment.bbox[3] -= segment.bbox[1] - 1;
    segments[count++] = segment;
  }
  return count;
}

}  // namespace v2e
