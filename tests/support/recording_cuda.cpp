// A libcuda.so.1 for tests of who calls it: it checks every argument, writes each call to the file CUDA_RECORD, and has
// memory, streams, events and graphs, but no GPU.
//
// Device memory is host memory. Work on streams runs as late as it may: when someone waits for it, and then only that
// on which it depends. So a missing wait gives other bytes. A kernel does invented arithmetic: it writes a hash to all
// that it may write: of its name, its size, and the first 64 bytes of its inputs and of what it wrote before in this
// run of the graph. So the answer depends on the input, on each launch and on each pointer. It shows nothing of what a
// real kernel computes.
//
// Environment: CUDA_GPU: compute capability and cuDriverGetVersion, such as "9.0 13000"; none: there is no GPU.
// CUDA_SECOND: compute capability of a second GPU.
// CUDA_PARAMETERS: a file of lines: CRC-32 of code, function, and a letter for each parameter: i for an input, o for an
// output, w for a workspace. CUDA_ANSWERS: a folder; the content of FUNCTION.K is written to parameter K of a function
// in place of a hash. CUDA_FAIL: "NAME N": call N of a function fails.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

enum {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kNoContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500
};
using Address = unsigned long long;
using Text = std::string;

std::recursive_mutex lock_;
std::map<Text, int> calls_;
int created_ = 0;
thread_local void* context_ = nullptr;
int primaries_[2];  // how often the primary context of each GPU is retained; its address is the context

std::uint32_t crc32(const void* data, std::size_t size, std::uint32_t crc = 0) {
  crc = ~crc;
  for (std::size_t i = 0; i < size; ++i) {
    crc ^= static_cast<const unsigned char*>(data)[i];
    for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

Text variable(const char* name) {
  const char* found = std::getenv(name);
  return found ? found : "";
}

struct Block {
  char kind;  // d: device, h: pinned host memory
  int number;
  std::size_t size;
  std::vector<char> bytes;
};
std::map<Address, Block> blocks_;

// The block that holds a whole range, or nullptr.
const std::pair<const Address, Block>* find(Address address, std::size_t size) {
  auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin()) return nullptr;
  --after;
  const Address offset = address - after->first;
  return offset <= after->second.size && size <= after->second.size - offset ? &*after : nullptr;
}

Text named(Address address) {
  const auto* found = find(address, 0);
  if (!found) return "?";
  return found->second.kind + std::to_string(found->second.number) + "+" + std::to_string(address - found->first);
}

struct Op;
struct Stream {
  int number;
  std::deque<Op> queue;
  std::uint64_t queued = 0, done = 0;
  std::vector<std::function<void()>>* capture = nullptr;
};
struct Event {
  int number;
  Stream* stream = nullptr;
  std::uint64_t after = 0;
};
struct Op {
  std::function<void()> run;
  Stream* other = nullptr;  // wait for this stream
  std::uint64_t until = 0;
};
struct Module {
  int number;
  std::uint32_t crc;
};
struct Function {
  Module* module;
  Text name, parameters;
  int shared = 0;
};
struct Graph {
  int number;
  std::vector<std::function<void()>> work;
};

// Live objects of each kind, so that a handle that is wrong or freed is refused.
std::set<void*> streams_, events_, modules_, graphs_, execs_;
std::map<std::pair<void*, Text>, Function> functions_;

void drain(Stream& stream, std::uint64_t until) {
  while (stream.done < until && !stream.queue.empty()) {
    const Op op = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (op.other && streams_.count(op.other)) drain(*op.other, op.until);
    if (op.run) op.run();
    ++stream.done;
  }
}

void queue(Stream& stream, std::function<void()> run) {
  if (stream.capture) return stream.capture->push_back(std::move(run));
  stream.queue.push_back({std::move(run)});
  ++stream.queued;
}

void write(const Text& line) {
  static auto& record = *new std::ofstream(variable("CUDA_RECORD"), std::ios::app);
  record << line << std::endl;
}

// Writes a call, and returns what it must return: an error where one is wanted, or where no context is current.
int begin(const char* name, const Text& arguments, bool needs_context = true) {
  write(Text(name) + (arguments.empty() ? "" : " ") + arguments);
  std::istringstream wanted(variable("CUDA_FAIL"));
  Text failing;
  int number = 0;
  wanted >> failing >> number;
  if (failing == name && ++calls_[failing] == number) return kOutOfMemory;
  return needs_context && !context_ ? kNoContext : kSuccess;
}

#define LOCK const std::lock_guard<std::recursive_mutex> guard(lock_)
#define ENTER(...) \
  if (const int status = begin(__VA_ARGS__)) return status
#define REQUIRE(holds, status) \
  if (!(holds)) return refused(#holds, status)

int refused(const char* rule, int status) {
  write(Text("refused: ") + rule);
  return status;
}

template <typename T>
Text text(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

Text stream_name(void* stream) {
  return !stream ? "default" : streams_.count(stream) ? "s" + text(static_cast<Stream*>(stream)->number) : "?";
}

template <typename T>
int create(std::set<void*>& live, void** out, T* made) {
  live.insert(made);
  *out = made;
  return kSuccess;
}

template <typename T>
int destroy(std::set<void*>& live, void* handle) {
  REQUIRE(live.erase(handle) == 1, kInvalidHandle);
  delete static_cast<T*>(handle);
  return kSuccess;
}

int allocate(Address* out, std::size_t size, char kind) {
  REQUIRE(size > 0, kInvalidValue);
  Block block{kind, created_++, size, std::vector<char>(size + 512)};
  const Address start = reinterpret_cast<Address>(block.bytes.data());
  *out = (start + 511) / 512 * 512;
  blocks_.emplace(*out, std::move(block));
  return kSuccess;
}

int release(Address address, char kind) {
  const auto found = blocks_.find(address);
  REQUIRE(found != blocks_.end() && found->second.kind == kind, kInvalidValue);
  // What is queued may still use it: the driver waits.
  for (void* stream : streams_) drain(*static_cast<Stream*>(stream), ~0ull);
  blocks_.erase(found);
  return kSuccess;
}

std::set<Address> written_;  // in this run of a graph

void compute(const Text& work, const Function& function, const std::vector<Address>& arguments) {
  const auto room = [](Address address) {
    const auto* found = find(address, 0);
    if (!found) std::abort();
    return std::min<std::size_t>(64, found->first + found->second.size - address);
  };
  std::uint32_t hash = crc32(work.data(), work.size());
  for (std::size_t i = 0; i < arguments.size(); ++i)
    if (function.parameters[i] == 'i' || written_.count(arguments[i]))
      hash = crc32(reinterpret_cast<void*>(arguments[i]), room(arguments[i]), hash);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (function.parameters[i] == 'i') continue;
    written_.insert(arguments[i]);
    char* out = reinterpret_cast<char*>(arguments[i]);
    std::ifstream file(variable("CUDA_ANSWERS") + "/" + function.name + "." + text(i), std::ios::binary);
    if (file && !variable("CUDA_ANSWERS").empty()) {
      const Text content((std::istreambuf_iterator<char>(file)), {});
      if (!find(arguments[i], content.size())) std::abort();
      std::copy(content.begin(), content.end(), out);
      continue;
    }
    for (std::size_t k = 0; k < room(arguments[i]); ++k)
      out[k] = static_cast<char>((hash = crc32(&k, sizeof k, hash)) >> 8);
  }
}

int launch(const char* name, void* handle, const unsigned* size, unsigned shared, void* stream, void** parameters) {
  auto* function = static_cast<Function*>(handle);
  const bool known =
      std::any_of(functions_.begin(), functions_.end(), [&](auto& entry) { return &entry.second == function; });
  REQUIRE(known && modules_.count(function->module), kInvalidHandle);
  REQUIRE(streams_.count(stream), kInvalidHandle);
  REQUIRE(size[3] * size[4] * size[5] <= 1024 && size[0] * size[1] * size[2] > 0, kInvalidValue);
  REQUIRE(shared <= 48 << 10 || shared <= static_cast<unsigned>(function->shared), kInvalidValue);
  Text work = function->name;
  for (int i = 0; i < 6; ++i) work += (i % 3 ? "x" : " ") + text(size[i]);
  Text what = "m" + text(function->module->number) + "." + work + " " + text(shared) + " " + stream_name(stream);
  std::vector<Address> arguments;
  for (std::size_t i = 0; i < function->parameters.size(); ++i) {
    arguments.push_back(*static_cast<Address*>(parameters[i]));
    const auto* found = find(arguments.back(), 1);
    REQUIRE(found && found->second.kind == 'd', kInvalidValue);
    what += " " + named(arguments.back());
  }
  if (const int status = begin(name, what)) return status;
  queue(*static_cast<Stream*>(stream), [=] { compute(work, *function, arguments); });
  return kSuccess;
}

int copy(void* to, const void* from, std::size_t size, void* stream) {
  REQUIRE(streams_.count(stream), kInvalidHandle);
  queue(*static_cast<Stream*>(stream), [=] { std::memmove(to, from, size); });
  return kSuccess;
}

struct AtExit {
  ~AtExit() {
    const auto contexts = static_cast<std::size_t>(primaries_[0] + primaries_[1]);
    write("live " + text(contexts + blocks_.size() + streams_.size() + events_.size() + modules_.size() +
                         graphs_.size() + execs_.size()));
  }
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int cuInit(unsigned) { return variable("CUDA_GPU").empty() ? int{kNoDevice} : int{kSuccess}; }

int cuDriverGetVersion(int* version) {
  *version = std::atoi(variable("CUDA_GPU").substr(variable("CUDA_GPU").find(' ') + 1).c_str());
  return kSuccess;
}

int cuDeviceGet(int* device, int number) {
  *device = number;
  return number > (variable("CUDA_SECOND").empty() ? 0 : 1) ? kInvalidValue : kSuccess;
}

int cuDeviceGetName(char* name, int size, int device) {
  std::snprintf(name, static_cast<std::size_t>(size), device ? "second GPU" : "no GPU");
  return kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  int major = 0, minor = 0;
  std::sscanf(variable(device ? "CUDA_SECOND" : "CUDA_GPU").c_str(), "%d.%d", &major, &minor);
  *value = attribute == 75 ? major : minor;
  return attribute == 75 || attribute == 76 ? kSuccess : kInvalidValue;
}

int cuGetErrorString(int, const char** out) {
  *out = "an error of the test";
  return kSuccess;
}

int cuCtxGetCurrent(void** out) {
  *out = context_;
  return kSuccess;
}

int cuCtxGetDevice(int* device) {
  *device = context_ == &primaries_[1];
  return context_ ? kSuccess : kNoContext;
}

int cuCtxSetCurrent(void* context) {
  context_ = context;
  return kSuccess;
}

thread_local std::vector<void*> pushed_;

int cuCtxPushCurrent_v2(void* context) {
  LOCK;
  if (*static_cast<int*>(context) == 0) return kNoContext;
  pushed_.push_back(context_);
  context_ = context;
  return kSuccess;
}

int cuCtxPopCurrent_v2(void** out) {
  if (pushed_.empty()) return kNoContext;
  *out = context_;
  context_ = pushed_.back();
  pushed_.pop_back();
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(void** out, int device) {
  LOCK;
  ++primaries_[device];
  *out = &primaries_[device];
  return kSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  LOCK;
  return --primaries_[device] < 0 ? kNoContext : kSuccess;
}

int cuMemGetInfo_v2(std::size_t*, std::size_t*) { return kSuccess; }
int cuEventElapsedTime(float*, void*, void*) { return kInvalidValue; }

int cuMemAlloc_v2(Address* out, std::size_t size) {
  LOCK;
  ENTER("cuMemAlloc_v2", text(size));
  return allocate(out, size, 'd');
}

int cuMemAllocHost_v2(void** out, std::size_t size) {
  LOCK;
  ENTER("cuMemAllocHost_v2", text(size));
  Address address;
  const int status = allocate(&address, size, 'h');
  if (!status) *out = reinterpret_cast<void*>(address);
  return status;
}

int cuMemFree_v2(Address address) {
  LOCK;
  ENTER("cuMemFree_v2", named(address));
  return release(address, 'd');
}

int cuMemFreeHost(void* memory) {
  LOCK;
  ENTER("cuMemFreeHost", named(reinterpret_cast<Address>(memory)));
  return release(reinterpret_cast<Address>(memory), 'h');
}

int cuMemcpyHtoD_v2(Address to, const void* from, std::size_t size) {
  LOCK;
  ENTER("cuMemcpyHtoD_v2", named(to) + " crc " + text(crc32(from, size)) + " " + text(size));
  REQUIRE(find(to, size), kInvalidValue);
  std::memcpy(reinterpret_cast<void*>(to), from, size);
  return kSuccess;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size, void* stream) {
  LOCK;
  ENTER("cuMemcpyHtoDAsync_v2",
        named(to) + " " + named(reinterpret_cast<Address>(from)) + " " + text(size) + " " + stream_name(stream));
  const auto *target = find(to, size), *source = find(reinterpret_cast<Address>(from), size);
  REQUIRE(target && target->second.kind == 'd' && source && source->second.kind == 'h', kInvalidValue);
  return copy(reinterpret_cast<void*>(to), from, size, stream);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size, void* stream) {
  LOCK;
  ENTER("cuMemcpyDtoHAsync_v2",
        named(reinterpret_cast<Address>(to)) + " " + named(from) + " " + text(size) + " " + stream_name(stream));
  const auto *target = find(reinterpret_cast<Address>(to), size), *source = find(from, size);
  REQUIRE(target && target->second.kind == 'h' && source && source->second.kind == 'd', kInvalidValue);
  return copy(to, reinterpret_cast<void*>(from), size, stream);
}

int cuStreamCreate(void** out, unsigned flags) {
  LOCK;
  ENTER("cuStreamCreate", text(flags));
  return create(streams_, out, new Stream{created_++, {}, 0, 0, nullptr});
}

int cuStreamDestroy_v2(void* stream) {
  LOCK;
  ENTER("cuStreamDestroy_v2", stream_name(stream));
  REQUIRE(streams_.count(stream), kInvalidHandle);
  drain(*static_cast<Stream*>(stream), ~0ull);
  return destroy<Stream>(streams_, stream);
}

int cuStreamSynchronize(void* stream) {
  LOCK;
  ENTER("cuStreamSynchronize", stream_name(stream));
  if (!stream) return kSuccess;
  REQUIRE(streams_.count(stream) && !static_cast<Stream*>(stream)->capture, kInvalidHandle);
  drain(*static_cast<Stream*>(stream), ~0ull);
  return kSuccess;
}

int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  LOCK;
  REQUIRE(streams_.count(stream) && events_.count(event) && !flags, kInvalidHandle);
  auto& waited = *static_cast<Event*>(event);
  auto& waiting = *static_cast<Stream*>(stream);
  ENTER("cuStreamWaitEvent", stream_name(stream) + " e" + text(waited.number));
  REQUIRE(waited.stream && !waiting.capture, kInvalidValue);
  waiting.queue.push_back({nullptr, waited.stream, waited.after});
  ++waiting.queued;
  return kSuccess;
}

int cuEventCreate(void** out, unsigned flags) {
  LOCK;
  ENTER("cuEventCreate", text(flags));
  return create(events_, out, new Event{created_++});
}

int cuEventDestroy_v2(void* event) {
  LOCK;
  ENTER("cuEventDestroy_v2", "");
  return destroy<Event>(events_, event);
}

int cuEventRecord(void* event, void* stream) {
  LOCK;
  REQUIRE(events_.count(event) && streams_.count(stream), kInvalidHandle);
  auto& recorded = *static_cast<Event*>(event);
  ENTER("cuEventRecord", "e" + text(recorded.number) + " " + stream_name(stream));
  recorded.stream = static_cast<Stream*>(stream);
  recorded.after = recorded.stream->queued;
  return kSuccess;
}

int cuEventSynchronize(void* event) {
  LOCK;
  REQUIRE(events_.count(event), kInvalidHandle);
  auto& waited = *static_cast<Event*>(event);
  ENTER("cuEventSynchronize", "e" + text(waited.number));
  if (waited.stream) drain(*waited.stream, waited.after);
  return kSuccess;
}

int cuModuleLoadData(void** out, const void* image) {
  LOCK;
  // The size of machine code is in its ELF header; PTX ends with a 0.
  const auto* bytes = static_cast<const unsigned char*>(image);
  std::size_t size = std::strlen(static_cast<const char*>(image));
  if (std::memcmp(bytes,
                  "\x7f"
                  "ELF",
                  4) == 0) {
    const auto table = [&](int place, int entry) {
      std::uint64_t start;
      std::uint16_t sizes[2];
      std::memcpy(&start, bytes + place, 8), std::memcpy(sizes, bytes + entry, 4);
      return start + std::uint64_t{sizes[0]} * sizes[1];
    };
    size = std::max(table(32, 54), table(40, 58));  // of program headers, of sections
  }
  const std::uint32_t crc = crc32(image, size);
  ENTER("cuModuleLoadData", text(crc));
  return create(modules_, out, new Module{created_++, crc});
}

int cuModuleUnload(void* module) {
  LOCK;
  ENTER("cuModuleUnload", "");
  return destroy<Module>(modules_, module);
}

int cuModuleGetFunction(void** out, void* module, const char* name) {
  LOCK;
  REQUIRE(modules_.count(module), kInvalidHandle);
  auto* found = static_cast<Module*>(module);
  ENTER("cuModuleGetFunction", "m" + text(found->number) + " " + name);
  std::ifstream file(variable("CUDA_PARAMETERS"));
  std::uint32_t crc;
  for (Text function, parameters; file >> crc >> function >> parameters;)
    if (crc == found->crc && function == name) {
      *out = &functions_.insert_or_assign({module, name}, Function{found, name, parameters}).first->second;
      return kSuccess;
    }
  return refused("a function of this module", kNotFound);
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  LOCK;
  ENTER("cuFuncSetAttribute", static_cast<Function*>(function)->name + " " + text(attribute) + " " + text(value));
  REQUIRE(attribute == 8 && value > 0 && value <= 227 << 10, kInvalidValue);
  static_cast<Function*>(function)->shared = value;
  return kSuccess;
}

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
  LOCK;
  REQUIRE(!extra, kInvalidValue);
  const unsigned size[] = {gx, gy, gz, bx, by, bz};
  return launch("cuLaunchKernel", function, size, shared, stream, parameters);
}

// CUlaunchConfig and CUlaunchAttribute of cuda.h.
struct Attribute {
  int id, pad, value;
  char more[60];
};
struct Config {
  unsigned size[6], shared;
  void* stream;
  Attribute* attributes;
  unsigned count;
};

int cuLaunchKernelEx(const Config* config, void* function, void** parameters, void** extra) {
  LOCK;
  static_assert(sizeof(Attribute) == 72 && sizeof(Config) == 56);
  REQUIRE(!extra && config->count == 1 && config->attributes->id == 6 && config->attributes->value == 1, kInvalidValue);
  return launch("cuLaunchKernelEx", function, config->size, config->shared, config->stream, parameters);
}

int cuStreamBeginCapture_v2(void* stream, int mode) {
  LOCK;
  ENTER("cuStreamBeginCapture_v2", stream_name(stream) + " " + text(mode));
  REQUIRE(streams_.count(stream) && !static_cast<Stream*>(stream)->capture && mode == 1, kInvalidValue);
  static_cast<Stream*>(stream)->capture = new std::vector<std::function<void()>>;
  return kSuccess;
}

int cuStreamEndCapture(void* stream, void** out) {
  LOCK;
  const int status = begin("cuStreamEndCapture", stream_name(stream));
  REQUIRE(streams_.count(stream) && static_cast<Stream*>(stream)->capture, kInvalidValue);
  auto* work = std::exchange(static_cast<Stream*>(stream)->capture, nullptr);
  auto* made = new Graph{created_++, std::move(*work)};
  delete work;
  if (!status) return create(graphs_, out, made);
  delete made;
  return status;
}

int cuGraphInstantiateWithFlags(void** out, void* graph, unsigned long long flags) {
  LOCK;
  ENTER("cuGraphInstantiateWithFlags", text(flags));
  REQUIRE(graphs_.count(graph) && !flags, kInvalidHandle);
  return create(execs_, out, new Graph{created_++, static_cast<Graph*>(graph)->work});
}

int cuGraphLaunch(void* exec, void* stream) {
  LOCK;
  REQUIRE(execs_.count(exec) && streams_.count(stream), kInvalidHandle);
  auto* graph = static_cast<Graph*>(exec);
  ENTER("cuGraphLaunch", "g" + text(graph->number) + " " + stream_name(stream));
  queue(*static_cast<Stream*>(stream), [work = graph->work] {
    written_.clear();
    for (const auto& each : work) each();
  });
  return kSuccess;
}

int cuGraphDestroy(void* graph) {
  LOCK;
  ENTER("cuGraphDestroy", "");
  return destroy<Graph>(graphs_, graph);
}

int cuGraphExecDestroy(void* exec) {
  LOCK;
  ENTER("cuGraphExecDestroy", "");
  return destroy<Graph>(execs_, exec);
}

}  // extern "C"

namespace {
AtExit at_exit_;
}
