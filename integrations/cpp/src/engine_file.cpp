#include "engine_file.hpp"

#include <algorithm>
#include <set>

namespace v2e {
namespace {

using json::Value;

constexpr char kHeader[] = "engine.json", kConstants[] = "constants.bin", kPtx[] = "ptx";
constexpr std::uint64_t kManifestLimit = 16 << 20, kEngineLimit = 0x7fffffff;  // ZIP64 begins there
constexpr std::int64_t kAlignment = 256, kMaxTensorBytes = std::int64_t{1} << 40;
// Of stages/engines/cuda/launch.py.
constexpr std::int64_t kMaxThreads = 1024, kMaxShared = 227 << 10;
constexpr std::int64_t kLimits[6] = {0x7fffffff, 65535, 65535, kMaxThreads, kMaxThreads, 64};
// Of boards, whose machine code runs nowhere else; see stages/engines/cuda/gpu.py.
constexpr const char* kTegra[] = {"5.3", "6.2", "7.2", "8.7", "8.8", "10.1", "11.0"};

// The leading numbers of a version such as 12.4.rc1. Raises Fault where it begins with none.
std::vector<int> numbers(const std::string& what, const std::string& version) {
  std::vector<int> found;
  std::size_t place = 0;
  while (place < version.size()) {
    const std::size_t end = std::min(version.find('.', place), version.size());
    const std::string part = version.substr(place, end - place);
    if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != std::string::npos) break;
    found.push_back(std::stoi(part));
    place = end + 1;
  }
  if (found.empty()) throw Fault(what + " must be a version, found " + shown(version));
  return found;
}

Spec parse_spec(const Value& content) {
  static const std::map<std::string, std::int64_t> kSizes = {{"bool", 1},  {"uint8", 1},   {"int8", 1},   {"int32", 4},
                                                             {"int64", 8}, {"float16", 2}, {"float32", 4}};
  content.as_object("a tensor");
  Spec spec;
  spec.dtype = content.at("dtype").as_text("dtype");
  const auto size = kSizes.find(spec.dtype);
  if (size == kSizes.end()) throw Fault("a tensor's dtype must be one of NumPy's, found " + shown(spec.dtype));
  std::int64_t bytes = size->second;
  for (const Value& item : content.at("shape").as_list("shape")) {
    const std::int64_t length = item.as_integer("a tensor's shape", 1, kMaxTensorBytes);
    if (length > kMaxTensorBytes / bytes) throw Fault("a tensor must have at most 2^40 bytes");
    bytes *= length;
    spec.shape.push_back(length);
  }
  spec.bytes = static_cast<std::uint64_t>(bytes);
  return spec;
}

// The keys operator, inputs, outputs and tensors of a step.
Kernel parse_tensors(const Value& step) {
  Kernel kernel;
  kernel.name = step.at("operator").as_text("operator");
  std::set<std::string> wanted;
  for (const char* key : {"inputs", "outputs"}) {
    std::vector<std::string>& names = *key == 'i' ? kernel.inputs : kernel.outputs;
    for (const Value& name : step.at(key).as_list(key)) names.push_back(name.as_text(key));
    if (names.empty()) throw Fault(std::string(key) + " must be a list of names");
    wanted.insert(names.begin(), names.end());
  }
  const Value& tensors = step.at("tensors").as_object("tensors");
  for (std::size_t i = 0; i < tensors.items.size(); ++i) kernel.tensors[tensors.keys[i]] = parse_spec(tensors.items[i]);
  const bool same = std::equal(wanted.begin(), wanted.end(), kernel.tensors.begin(), kernel.tensors.end(),
                               [](const std::string& name, const auto& entry) { return name == entry.first; });
  if (!same) throw Fault("tensors must have shape and dtype of each input and output");
  return kernel;
}

Launch parse_launch(const Value& content, const std::map<char, std::size_t>& counts) {
  content.require_keys("a launch", {"function", "grid", "block", "arguments", "shared_bytes"});
  Launch launch;
  launch.function = content.at("function").as_text("function");
  constexpr char kLetters[] = "_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  const std::string& function = launch.function;
  if (function.empty() || (function[0] >= '0' && function[0] <= '9') ||
      function.find_first_not_of(kLetters) != std::string::npos)
    throw Fault("function must be a name, found " + shown(function));
  for (int i = 0; i < 6; ++i) {
    const char* key = i < 3 ? "grid" : "block";
    const std::vector<Value>& size = content.at(key).as_list(key);
    if (size.size() != 3) throw Fault(std::string(key) + " must be three integers");
    launch.size[i] = static_cast<unsigned>(size[static_cast<std::size_t>(i % 3)].as_integer(key, 1, kLimits[i]));
  }
  if (std::uint64_t{launch.size[3]} * launch.size[4] * launch.size[5] > kMaxThreads)
    throw Fault("block must have at most 1024 threads");
  for (const Value& item : content.at("arguments").as_list("arguments")) {
    const std::string& name = item.as_text("arguments");
    const auto count = counts.find(name.empty() ? '\0' : name[0]);
    const std::string digits = name.empty() ? "" : name.substr(1);
    const bool number = !digits.empty() && digits.size() < 7 &&
                        digits.find_first_not_of("0123456789") == std::string::npos &&
                        (digits == "0" || digits[0] != '0');
    if (count == counts.end() || !number || std::stoul(digits) >= count->second)
      throw Fault("arguments must be among the inputs, outputs and workspaces, found " + shown(name));
    launch.arguments.emplace_back(name[0], std::stoul(digits));
  }
  launch.shared_bytes = static_cast<unsigned>(content.at("shared_bytes").as_integer("shared_bytes", 0, kMaxShared));
  return launch;
}

Kernel parse_kernel(const Value& step, const std::string& chosen) {
  step.require_keys("a step", {"operator", "inputs", "outputs", "tensors", "plans"});
  Kernel kernel = parse_tensors(step);
  const Value& plans = step.at("plans").as_object("plans");
  if (!plans.places.count(chosen)) throw Fault("plans must have " + chosen);
  const Value& plan = plans.at(chosen);
  plan.require_keys("a plan", {"code", "launches", "workspace_bytes"});
  kernel.code = plan.at("code").as_text("code");
  for (const Value& size : plan.at("workspace_bytes").as_list("workspace_bytes"))
    kernel.workspace_bytes.push_back(
        static_cast<std::uint64_t>(size.as_integer("workspace_bytes", 1, kMaxTensorBytes)));
  const std::map<char, std::size_t> counts = {
      {'i', kernel.inputs.size()}, {'o', kernel.outputs.size()}, {'w', kernel.workspace_bytes.size()}};
  for (const Value& entry : plan.at("launches").as_list("launches"))
    kernel.launches.push_back(parse_launch(entry, counts));
  if (kernel.launches.empty()) throw Fault("launches must be a list of launches");
  return kernel;
}

// The calls of kernels among the steps of the manifest's graph.
std::vector<Kernel> described(const Value& graph) {
  std::vector<Kernel> found;
  for (const Value& step : graph.at("steps").as_list("graph.steps")) {
    const std::string& kind = step.at("kind").as_text("kind");
    if (kind == "kernel") {
      step.require_keys("a step", {"kind", "operator", "attributes", "inputs", "outputs", "tensors"});
      step.at("attributes").as_object("attributes");
      found.push_back(parse_tensors(step));
    } else if (kind != "constants") {
      throw Fault("kind must be one of constants, kernel, found " + shown(kind));
    }
  }
  return found;
}

std::vector<Category> parse_categories(const Value& graph) {
  std::vector<Category> found;
  std::set<std::int64_t> ids;
  for (const Value& entry : graph.at("categories").as_list("graph.categories")) {
    Category category{};
    const std::int64_t id = entry.as_object("a category").at("id").as_integer("id", 1, 0x7fffffff);
    if (!ids.insert(id).second) throw Fault("graph.categories: an id occurs twice");
    category.id = static_cast<std::int32_t>(id);
    category.name = entry.at("name").as_text("name");
    if (category.name.find('\0') != std::string::npos) throw Fault("a category's name must be text without 0 bytes");
    category.is_thing = entry.at("isthing").as_integer("isthing", 0, 1) == 1;
    if (entry.places.count("color")) {
      const std::vector<Value>& color = entry.at("color").as_list("color");
      if (color.size() != 3) throw Fault("color must be three numbers");
      for (std::size_t i = 0; i < 3; ++i)
        category.color[i] = static_cast<std::uint8_t>(color[i].as_integer("color", 0, 255));
    }
    found.push_back(category);
  }
  return found;
}

Value parse_header(const Archive& archive) {
  Value header = json::parse(archive.read(kHeader));
  header.require_keys(kHeader, {"cuda", "compute_capabilities", "constants", "steps"});
  numbers("cuda", header.at("cuda").as_text("cuda"));
  for (const Value& item : header.at("compute_capabilities").as_list("compute_capabilities"))
    numbers("compute_capabilities", item.as_text("compute_capabilities"));
  if (header.at("compute_capabilities").items.empty()) throw Fault("compute_capabilities must be a list of versions");
  return header;
}

// The archive must have a kernel for each of the manifest's calls, and no files but theirs.
void require_described(const Value& header, const Archive& archive, const std::vector<Kernel>& wanted) {
  const std::vector<Value>& steps = header.at("steps").as_list("steps");
  if (steps.size() != wanted.size()) throw Fault("steps must be a list of " + std::to_string(wanted.size()) + " steps");
  std::set<std::string> named = {kHeader, kConstants};
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::string step = "step " + std::to_string(i);
    steps[i].require_keys(step, {"operator", "inputs", "outputs", "tensors", "plans"});
    const Kernel found = parse_tensors(steps[i]);
    const Kernel& call = wanted[i];
    if (found.name != call.name || found.inputs != call.inputs || found.outputs != call.outputs ||
        found.tensors != call.tensors)
      throw Fault(step + " must be " + call.name + " of the manifest, found " + shown(found.name));
    for (const Value& plan : steps[i].at("plans").as_object("plans").items)
      named.insert(plan.as_object("a plan").at("code").as_text("code"));
  }
  for (const auto& member : archive.members())
    if (!named.erase(member.first)) throw Fault("the file " + shown(member.first) + " belongs to no step");
  if (!named.empty()) throw Fault("the file " + shown(*named.begin()) + " is missing");
}

// Which of the compiled compute capabilities a GPU runs, or ptx, or "" where it runs none.
std::string code_for(const std::string& capability, const std::vector<Value>& compiled) {
  const auto is_tegra = [](const std::string& name) {
    return std::count(std::begin(kTegra), std::end(kTegra), name) > 0;
  };
  const std::vector<int> wanted = numbers("the GPU's compute capability", capability);
  std::string best;
  std::vector<int> newest, fitting;
  for (const Value& item : compiled) {
    if (item.text == capability) return capability;
    const std::vector<int> found = numbers("compute_capabilities", item.text);
    newest = std::max(newest, found);
    if (!is_tegra(capability) && !is_tegra(item.text) && found[0] == wanted[0] && found < wanted && found > fitting) {
      best = item.text;
      fitting = found;
    }
  }
  return !best.empty() ? best : newest < wanted ? kPtx : "";
}

template <typename F>
void in_file(const std::string& path, const std::string& expected, const std::string& fix, F check) {
  try {
    check();
  } catch (const Fault& fault) {
    throw Failure(V2E_FILE, path + expected + ": " + fault.what() + "; " + fix);
  }
}

constexpr char kRebuild[] = "copy it again, or build it again by `make engines TARGET=...`";
constexpr char kWhole[] = " is not a whole engine of our kernels";

}  // namespace

Engine::Engine(const std::string& folder) {
  const std::string manifest = folder + "/" + kHeader;
  std::vector<Kernel> wanted;
  in_file(manifest, "", kRebuild, [&] {
    const File file(manifest, kManifestLimit);
    const Value content = json::parse(file.bytes());
    content.as_object("the file");
    if (content.at("builder").as_text("builder") != "cuda")
      throw Failure(V2E_FILE, manifest + ": builder must be cuda, found " + shown(content.at("builder").text) +
                                  "; name the folder of an engine of our kernels, such as data/engines/gpu");
    const Value& about = content.at("engine").as_object("engine");
    const std::string& name = about.at("file").as_text("engine.file");
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string("/\0", 2)) != std::string::npos)
      throw Fault("engine.file must name a file in " + folder + ", found " + shown(name));
    path = folder + "/" + name;
    sha256 = about.at("sha256").as_text("engine.sha256");
    const Value& graph = content.at("graph").as_object("graph");
    const Value& deploy = graph.at("deploy").as_object("graph.deploy");
    const std::string& mode_name = deploy.at("mode").as_text("deploy.mode");
    if (const std::string& kind = deploy.at("graph").as_text("deploy.graph"); kind != "fused")
      throw Fault("deploy.graph must be fused, found " + shown(kind));
    const char* const modes[] = {"panoptic", "semantic", "instance"};
    const auto found = std::find(std::begin(modes), std::end(modes), mode_name);
    if (found == std::end(modes))
      throw Fault("deploy.mode must be panoptic, semantic or instance, found " + shown(mode_name));
    mode = static_cast<v2e_mode>(found - modes);
    batch_size = deploy.at("batch_size").as_integer("deploy.batch_size", 1, 65535);
    height_px = deploy.at("frame_height_px").as_integer("deploy.frame_height_px", 1, 65535);
    width_px = deploy.at("frame_width_px").as_integer("deploy.frame_width_px", 1, 65535);
    const Value& threshold = deploy.at("object_mask_threshold");
    const bool is_number = threshold.is(Value::Kind::number) || threshold.is(Value::Kind::integer);
    if (!is_number || threshold.number < 0 || threshold.number >= 1)  // beyond float, the conversion is undefined
      throw Fault("deploy.object_mask_threshold must be a number from 0 to below 1, found " + threshold.shown());
    score_threshold = static_cast<float>(threshold.number);
    categories = parse_categories(graph);
    wanted = described(graph);
  });
  in_file(path, kWhole, kRebuild, [&] {
    file_ = std::make_unique<File>(path, kEngineLimit);
    const std::string found = v2e::sha256(file_->bytes());
    if (found != sha256) throw Fault("SHA-256 " + found + " is not the manifest's " + shown(sha256));
    archive_ = std::make_unique<Archive>(file_->bytes());
    header_ = parse_header(*archive_);
  });
  in_file(path, " is not of the graph in its manifest", kRebuild,
          [&] { require_described(header_, *archive_, wanted); });
}

void Engine::choose(const Gpu& gpu) {
  in_file(path, kWhole, kRebuild, [&] {
    const std::vector<Value>& compiled = header_.at("compute_capabilities").items;
    compiled_for = code_for(gpu.compute_capability, compiled);
    if (compiled_for.empty()) {
      std::string list;
      for (const Value& item : compiled) list += (list.empty() ? "" : ", ") + item.text;
      throw Failure(V2E_FILE, path + " has code for compute capability " + list + ", found " + gpu.compute_capability +
                                  " (" + gpu.name +
                                  "); name it in compute_capabilities of conf/target and build again");
    }
    // A driver loads machine code of its own major version and older ones, and PTX of its own version and older ones.
    const std::string& cuda = header_.at("cuda").text;
    std::vector<int> needed = numbers("cuda", cuda), found = numbers("the driver's version", gpu.cuda);
    const std::size_t compared = compiled_for == kPtx ? 2 : 1;
    needed.resize(std::min(needed.size(), compared)), found.resize(std::min(found.size(), compared));
    if (needed > found)
      throw Failure(
          V2E_FILE,
          path + " was compiled by CUDA " + cuda + " and needs a driver of CUDA " +
              (compared == 2 ? cuda : std::to_string(needed[0])) + " or later, found CUDA " + gpu.cuda +
              "; update the driver, or build for it with a smaller cuda_major in conf/target (docs/targets.md)");
    const std::vector<Value>& steps = header_.at("steps").items;
    if (steps.empty()) throw Fault("steps must be a list of steps");
    for (const Value& step : steps) {
      try {
        kernels.push_back(parse_kernel(step, compiled_for));
      } catch (const Fault& fault) {
        throw Fault("step " + std::to_string(kernels.size()) + ": " + fault.what());
      }
    }
    std::set<std::string> read;
    for (const Kernel& kernel : kernels) {
      if (!read.insert(kernel.code).second) continue;
      archive_->read(kernel.code);
      code_names.push_back(kernel.code);
    }
    data = archive_->read(kConstants);
    const Value& places = header_.at("constants").as_object("constants");
    for (std::size_t i = 0; i < places.items.size(); ++i) {
      const Value& place = places.items[i];
      Constant constant{places.keys[i], parse_spec(place), 0};
      constant.offset = static_cast<std::uint64_t>(place.at("offset").as_integer("offset", 0, kMaxTensorBytes));
      if (constant.offset % kAlignment || constant.offset > data.size() ||
          constant.spec.bytes > data.size() - constant.offset)
        throw Fault("the constant " + shown(constant.name) + " must lie in the bytes of " + kConstants);
      constants.push_back(std::move(constant));
    }
    header_ = Value();
  });
}

}  // namespace v2e
