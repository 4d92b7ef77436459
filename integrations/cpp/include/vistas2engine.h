/* Runs an engine of the builder `cuda` (data/engines/gpu) from C and C++. docs/cpp.md describes it.
 *
 * Every function returns a status and never throws. A handle may be used by several threads at once: one may submit
 * while another takes results. Only v2e_close must be the last call, after all others have returned. */
#ifndef VISTAS2ENGINE_H
#define VISTAS2ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define V2E_API __attribute__((visibility("default")))

typedef enum {
  V2E_OK = 0,
  V2E_INVALID = 1, /* an argument is wrong */
  V2E_FILE = 2,    /* the engine is missing, damaged, of another form, or not for this GPU or driver */
  V2E_NO_GPU = 3,  /* no NVIDIA GPU or no driver */
  V2E_CUDA = 4,    /* the driver refused a call, or work on the GPU failed; close the handle */
  V2E_BUSY = 5,    /* as many batches are in flight as the engine was opened for; take a result first */
  V2E_EMPTY = 6,   /* no batch is in flight; submit one first */
  V2E_MEMORY = 7   /* the host has no memory left */
} v2e_status;

typedef enum { V2E_PANOPTIC = 0, V2E_SEMANTIC = 1, V2E_INSTANCE = 2 } v2e_mode;

typedef struct v2e_engine v2e_engine;

/* An output of the graph; docs/outputs.md lists those of each mode. */
typedef struct {
  const char *name;
  const char *dtype; /* NumPy's name: uint8, int32, float32, ... */
  uint32_t rank;
  const int64_t *shape; /* the first axis is the batch */
  size_t bytes;
} v2e_tensor;

typedef struct {
  int32_t id; /* category_id, from 1 */
  const char *name;
  int32_t isthing;  /* 1: objects are separate segments. 0: stuff */
  uint8_t color[3]; /* RGB; 0 where the set has none */
} v2e_category;

/* All pointers in it are valid until the handle is closed. */
typedef struct {
  v2e_mode mode;
  uint32_t batch_size;
  uint32_t height_px; /* of a frame and of its map */
  uint32_t width_px;
  size_t input_bytes; /* of a batch of frames: batch_size * height_px * width_px * 3 */
  uint32_t in_flight;
  uint32_t output_count;
  const v2e_tensor *outputs;
  uint32_t category_count;
  const v2e_category *categories;
  uint32_t max_segments; /* that v2e_segments writes, at most */
  const char *engine_sha256;
  const char *gpu;                /* name of the GPU */
  const char *compute_capability; /* of the GPU, such as 8.7 */
  const char *compiled_for;       /* compute capability of the code that runs, or ptx: compiled by the driver */
} v2e_description;

typedef struct {
  int32_t id;          /* value of its pixels in the map, from 1 */
  int32_t category_id; /* as in v2e_category.id */
  float score;         /* 0 to 1; -1 in the mode semantic, which has none */
  uint32_t area_px;
  uint32_t bbox[4]; /* left, top, width and height in pixels, as in COCO */
} v2e_segment;

/* Check the engine in a folder, load it, and run it once: in the CUDA context that is current in this thread, which
 * must live until the handle is closed, or else in the primary context of the first GPU of CUDA_VISIBLE_DEVICES. Up to
 * `in_flight` batches, 1 to 16, may be submitted before a result is taken; with 2 the copies of one batch and the
 * computation of another overlap. Sets *engine also where it fails, so that v2e_error says why; NULL where the host has
 * no memory. Close it always. */
V2E_API v2e_status v2e_open(const char *folder, uint32_t in_flight, v2e_engine **engine);

/* Set *description to facts about an open engine. */
V2E_API v2e_status v2e_describe(v2e_engine *engine, const v2e_description **description);

/* Set *frames to the engine's own pinned memory for the next batch, input_bytes long. A batch that is written there and
 * then submitted is not copied. V2E_BUSY where all of it is in flight. For one producer: the next v2e_submit makes
 * it another batch's. */
V2E_API v2e_status v2e_input(v2e_engine *engine, uint8_t **frames);

/* Start a batch: uint8 RGB [batch_size, height_px, width_px, 3]. Returns before the GPU has done it; `frames` may be
 * reused at once, except memory of v2e_input. */
V2E_API v2e_status v2e_submit(v2e_engine *engine, const uint8_t *frames, size_t bytes);

/* Wait for the oldest batch in flight and copy its outputs to the caller's memory: output_count pointers, in the order
 * of v2e_description.outputs, each to `bytes` of its tensor. Where v2e_segments reads them they are aligned for their
 * dtypes, as memory of malloc is. */
V2E_API v2e_status v2e_result(v2e_engine *engine, void *const *outputs);

/* Decode frame `frame` of a batch of outputs, as v2e_result wrote them, into a map of segments: ids, int32 [height_px,
 * width_px], 0 where there is none; max_segments places for segments, of which *count are filled, by ascending id.
 * Segments without a pixel are left out. */
V2E_API v2e_status v2e_segments(v2e_engine *engine, const void *const *outputs, uint32_t frame, int32_t *ids,
                                v2e_segment *segments, uint32_t *count);

/* Copy the message of the handle's last error, one line, into a buffer of `size` bytes, cut to fit and ended by 0.
 * Returns its whole length without the 0. */
V2E_API size_t v2e_error(v2e_engine *engine, char *buffer, size_t size);

/* Wait for the GPU and free all of it. NULL is allowed. */
V2E_API void v2e_close(v2e_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
