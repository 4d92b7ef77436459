// An engine's folder: the manifest engine.json and the .cuda file (docs/outputs.md). All of it is checked here, as
// stages/engines/manifest.py and stages/engines/cuda/bundle.py do, before anything reaches the driver.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "archive.hpp"
#include "driver.hpp"
#include "json.hpp"

namespace v2e {

struct Spec {
  std::vector<std::int64_t> shape;
  std::string dtype;
  std::uint64_t bytes = 0;
  bool operator==(const Spec& other) const { return shape == other.shape && dtype == other.dtype; }
  bool operator!=(const Spec& other) const { return !(*this == other); }
};

struct Launch {
  std::string function;
  unsigned size[6];  // grid x, y, z, block x, y, z
  unsigned shared_bytes;
  std::vector<std::pair<char, std::size_t>> arguments;  // 'i', 'o' or 'w', and the number of input, output, workspace
};

struct Kernel {
  std::string name;  // of its operator
  std::vector<std::string> inputs, outputs;
  std::map<std::string, Spec> tensors;
  std::string code;  // name of its file in the archive
  std::vector<Launch> launches;
  std::vector<std::uint64_t> workspace_bytes;
};

struct Constant {
  std::string name;
  Spec spec;
  std::uint64_t offset;
};

struct Category {
  std::int32_t id;
  std::string name;
  bool is_thing;
  std::uint8_t color[3];
};

struct Engine {
  // Checks manifest, SHA-256, and archive against the manifest's steps. Raises Failure V2E_FILE.
  explicit Engine(const std::string& folder);
  // Chooses and checks the code for a GPU. Raises Failure V2E_FILE.
  void choose(const Gpu& gpu);

  std::string path, sha256;
  v2e_mode mode = V2E_PANOPTIC;
  std::int64_t batch_size = 0, height_px = 0, width_px = 0;
  float score_threshold = 0;  // deploy.object_mask_threshold
  std::vector<Category> categories;
  // Known once the code is chosen:
  std::string compiled_for;
  std::vector<Kernel> kernels;
  std::vector<std::string> code_names;  // of the code that the kernels need, each once
  std::vector<Constant> constants;
  std::string_view data;  // bytes of the constants

  std::string_view code(const std::string& name) const { return archive_->read(name); }
  // Frees the file's bytes, once they are on the GPU.
  void release() {
    archive_.reset();
    file_.reset();
    data = {};
  }

 private:
  std::unique_ptr<File> file_;
  std::unique_ptr<Archive> archive_;
  json::Value header_;
};

}  // namespace v2e
