// The C API: no exception leaves it.
#include <cstring>
#include <mutex>
#include <new>

#include "segments.hpp"

struct v2e_engine {
  std::unique_ptr<v2e::Engine> engine;
  std::unique_ptr<v2e::Layout> layout;
  std::unique_ptr<v2e::Decoder> decoder;
  std::unique_ptr<v2e::Runtime> runtime;  // nullptr where opening failed
  v2e::Gpu gpu;
  v2e_description description{};
  std::vector<v2e_tensor> outputs;
  std::vector<v2e_category> categories;
  std::mutex message_lock;
  char message[1024] = "";

  v2e_status fail(v2e_status status, const char* what) noexcept {
    const std::lock_guard<std::mutex> lock(message_lock);
    std::size_t size = 0;
    // One line, whatever the names of files hold.
    for (; what[size] && size + 1 < sizeof message; ++size)
      message[size] = static_cast<unsigned char>(what[size]) < ' ' ? ' ' : what[size];
    message[size] = '\0';
    return status;
  }
};

namespace {

// Runs a function on a handle and turns what it throws into a status and the handle's message.
template <typename F>
v2e_status guarded(v2e_engine* engine, F run) noexcept {
  if (!engine) return V2E_INVALID;
  try {
    run();
    return V2E_OK;
  } catch (const v2e::Failure& failure) {
    return engine->fail(failure.status, failure.what());
  } catch (const std::bad_alloc&) {
    return engine->fail(V2E_MEMORY, "the host has no memory left; close other programs");
  } catch (const std::exception& error) {
    return engine->fail(V2E_INVALID, error.what());
  }
}

v2e::Runtime& opened(const v2e_engine& engine) {
  if (!engine.runtime) throw v2e::Failure(V2E_INVALID, "the engine is not open; v2e_open said why");
  return *engine.runtime;
}

void require(const void* pointer, const char* name) {
  if (!pointer) throw v2e::Failure(V2E_INVALID, std::string(name) + " must not be NULL");
}

void open(v2e_engine& handle, const char* folder, std::uint32_t in_flight) {
  require(folder, "folder");
  if (in_flight < 1 || in_flight > 16)
    throw v2e::Failure(V2E_INVALID, "in_flight must be 1 to 16, found " + std::to_string(in_flight));
  handle.engine = std::make_unique<v2e::Engine>(folder);
  v2e::Engine& engine = *handle.engine;
  handle.gpu = v2e::Gpu::current();
  engine.choose(handle.gpu);
  handle.layout = std::make_unique<v2e::Layout>(engine);
  handle.decoder = std::make_unique<v2e::Decoder>(engine, *handle.layout);
  for (const auto& [name, spec] : handle.layout->outputs)
    handle.outputs.push_back({name.c_str(), spec.dtype.c_str(), static_cast<std::uint32_t>(spec.shape.size()),
                              spec.shape.data(), spec.bytes});
  for (const v2e::Category& category : engine.categories)
    handle.categories.push_back({category.id,
                                 category.name.c_str(),
                                 category.is_thing,
                                 {category.color[0], category.color[1], category.color[2]}});
  const auto count = [](auto size) { return static_cast<std::uint32_t>(size); };
  handle.description = {engine.mode,
                        count(engine.batch_size),
                        count(engine.height_px),
                        count(engine.width_px),
                        handle.layout->input_spec.bytes,
                        in_flight,
                        count(handle.outputs.size()),
                        handle.outputs.data(),
                        count(handle.categories.size()),
                        handle.categories.data(),
                        handle.decoder->max_segments(),
                        engine.sha256.c_str(),
                        handle.gpu.name.c_str(),
                        handle.gpu.compute_capability.c_str(),
                        engine.compiled_for.c_str()};
  handle.runtime = std::make_unique<v2e::Runtime>(engine, *handle.layout, in_flight);
  engine.release();
}

}  // namespace

v2e_status v2e_open(const char* folder, uint32_t in_flight, v2e_engine** engine) {
  if (!engine) return V2E_INVALID;
  *engine = new (std::nothrow) v2e_engine;
  if (!*engine) return V2E_MEMORY;
  return guarded(*engine, [&] { open(**engine, folder, in_flight); });
}

v2e_status v2e_describe(v2e_engine* engine, const v2e_description** description) {
  return guarded(engine, [&] {
    opened(*engine);
    require(description, "description");
    *description = &engine->description;
  });
}

v2e_status v2e_input(v2e_engine* engine, uint8_t** frames) {
  return guarded(engine, [&] {
    require(frames, "frames");
    *frames = opened(*engine).input();
  });
}

v2e_status v2e_submit(v2e_engine* engine, const uint8_t* frames, size_t bytes) {
  return guarded(engine, [&] {
    require(frames, "frames");
    opened(*engine).submit(frames, bytes);
  });
}

v2e_status v2e_result(v2e_engine* engine, void* const* outputs) {
  return guarded(engine, [&] {
    v2e::Runtime& runtime = opened(*engine);
    require(outputs, "outputs");
    for (std::size_t i = 0; i < engine->outputs.size(); ++i) require(outputs[i], engine->outputs[i].name);
    runtime.result(outputs);
  });
}

v2e_status v2e_segments(v2e_engine* engine, const void* const* outputs, uint32_t frame, int32_t* ids,
                        v2e_segment* segments, uint32_t* count) {
  return guarded(engine, [&] {
    opened(*engine);
    require(outputs, "outputs");
    for (std::size_t i = 0; i < engine->outputs.size(); ++i) require(outputs[i], engine->outputs[i].name);
    require(ids, "ids");
    require(segments, "segments");
    require(count, "count");
    *count = engine->decoder->decode(outputs, frame, ids, segments);
  });
}

size_t v2e_error(v2e_engine* engine, char* buffer, size_t size) {
  static const char kNone[] = "there is no handle: the host has no memory left, or NULL was given";
  std::unique_lock<std::mutex> lock;
  if (engine) lock = std::unique_lock<std::mutex>(engine->message_lock);
  const char* message = engine ? engine->message : kNone;
  const std::size_t length = std::strlen(message);
  if (buffer && size) {
    const std::size_t copied = length < size ? length : size - 1;
    std::memcpy(buffer, message, copied);
    buffer[copied] = '\0';
  }
  return length;
}

void v2e_close(v2e_engine* engine) { delete engine; }
