/* A client of the C API, in C, for tests: it prints "STATUS MESSAGE" where a call fails, and exits with the status.
 *
 *   client open ENGINE IN_FLIGHT              open, and print what v2e_describe says
 *   client run ENGINE IN_FLIGHT FRAMES OUT    batches of the file FRAMES; all raw outputs of each, one after the other
 *   client decode ENGINE OUTPUTS OUT          raw outputs of one batch -> ids and segments of each frame
 *   client threads ENGINE FRAMES              producers, consumers and readers of messages on one handle, and opening
 *   client misuse ENGINE                      calls that must be refused
 *   client second ENGINE                      open in a context of the second GPU
 *   client gone ENGINE                        and close when that context is gone
 */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vistas2engine.h"

static v2e_engine *engine;
static const v2e_description *about;

static int check(v2e_status status) {
  char message[1024];
  if (status == V2E_OK) return 1;
  v2e_error(engine, message, sizeof message);
  printf("%d %s\n", (int)status, message);
  return 0;
}

static void need(v2e_status status) {
  if (check(status)) return;
  v2e_close(engine);
  exit((int)status);
}

static void hold(int holds, const char *what) {
  if (holds) return;
  printf("not so: %s\n", what);
  exit(99);
}
#define HOLD(what) hold(what, #what)

static void **outputs_new(void) {
  void **found = malloc(about->output_count * sizeof *found);
  for (uint32_t i = 0; i < about->output_count; ++i) found[i] = malloc(about->outputs[i].bytes);
  return found;
}

static void outputs_free(void **outputs) {
  for (uint32_t i = 0; i < about->output_count; ++i) free(outputs[i]);
  free(outputs);
}

static uint8_t *file_bytes(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  HOLD(file != NULL);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *found = malloc(*size);
  HOLD(fread(found, 1, *size, file) == *size);
  fclose(file);
  return found;
}

static void write_outputs(void **outputs, FILE *file) {
  for (uint32_t i = 0; i < about->output_count; ++i) fwrite(outputs[i], 1, about->outputs[i].bytes, file);
}

static void describe(void) {
  printf("%d %u %u %u %zu %u %u %s %s %s %s\n", (int)about->mode, about->batch_size, about->height_px, about->width_px,
         about->input_bytes, about->in_flight, about->max_segments, about->engine_sha256, about->compute_capability,
         about->compiled_for, about->gpu);
  for (uint32_t i = 0; i < about->output_count; ++i) {
    const v2e_tensor *output = &about->outputs[i];
    printf("%s %s %zu", output->name, output->dtype, output->bytes);
    for (uint32_t k = 0; k < output->rank; ++k) printf(" %lld", (long long)output->shape[k]);
    printf("\n");
  }
  for (uint32_t i = 0; i < about->category_count; ++i) {
    const v2e_category *category = &about->categories[i];
    printf("%d %d %d %d %d %s\n", category->id, category->isthing, category->color[0], category->color[1],
           category->color[2], category->name);
  }
}

static void run(const char *frames_path, const char *out_path) {
  size_t size;
  uint8_t *frames = file_bytes(frames_path, &size), *place = frames, *own;
  void **outputs = outputs_new();
  FILE *out = fopen(out_path, "wb");
  uint32_t queued = 0;
  for (int number = 0; place < frames + size || queued; ++number) {
    if (place < frames + size) {
      /* Each second batch by the engine's own memory. */
      if (number % 2) {
        need(v2e_input(engine, &own));
        memcpy(own, place, about->input_bytes);
        need(v2e_submit(engine, own, about->input_bytes));
      } else {
        need(v2e_submit(engine, place, about->input_bytes));
        memset(place, 0, about->input_bytes); /* the caller's memory is free again */
      }
      place += about->input_bytes;
      if (++queued < about->in_flight) continue;
      HOLD(v2e_submit(engine, frames, about->input_bytes) == V2E_BUSY);
    }
    need(v2e_result(engine, outputs));
    write_outputs(outputs, out);
    --queued;
  }
  HOLD(v2e_result(engine, outputs) == V2E_EMPTY);
  fclose(out);
  outputs_free(outputs);
  free(frames);
}

static void decode(const char *path, const char *out_path) {
  size_t size, place = 0, pixels = (size_t)about->height_px * about->width_px;
  uint8_t *bytes = file_bytes(path, &size);
  void **outputs = outputs_new();
  for (uint32_t i = 0; i < about->output_count; place += about->outputs[i++].bytes)
    memcpy(outputs[i], bytes + place, about->outputs[i].bytes);
  HOLD(place == size);
  int32_t *ids = malloc(pixels * sizeof *ids);
  v2e_segment *segments = malloc(about->max_segments * sizeof *segments);
  FILE *out = fopen(out_path, "wb");
  for (uint32_t frame = 0; frame < about->batch_size; ++frame) {
    uint32_t count;
    need(v2e_segments(engine, (const void *const *)outputs, frame, ids, segments, &count));
    HOLD(count <= about->max_segments);
    fwrite(ids, sizeof *ids, pixels, out);
    fwrite(&count, sizeof count, 1, out);
    fwrite(segments, sizeof *segments, count, out);
  }
  fclose(out);
  free(segments), free(ids), outputs_free(outputs), free(bytes);
}

enum { BATCHES = 40 };
static uint8_t *batch;
static void **expected;
static int taken;
static pthread_mutex_t taken_lock = PTHREAD_MUTEX_INITIALIZER;

static void *produce(void *unused) {
  (void)unused;
  for (int i = 0; i < BATCHES / 2;) {
    const v2e_status status = v2e_submit(engine, batch, about->input_bytes);
    HOLD(status == V2E_OK || status == V2E_BUSY);
    if (status == V2E_OK) ++i;
    sched_yield();
  }
  return NULL;
}

static void *consume(void *unused) {
  void **outputs = outputs_new();
  for (int all = 0; all < BATCHES;) {
    const v2e_status status = v2e_result(engine, outputs);
    HOLD(status == V2E_OK || status == V2E_EMPTY);
    pthread_mutex_lock(&taken_lock);
    all = status == V2E_OK ? ++taken : taken;
    pthread_mutex_unlock(&taken_lock);
    for (uint32_t i = 0; status == V2E_OK && i < about->output_count; ++i)
      HOLD(memcmp(outputs[i], expected[i], about->outputs[i].bytes) == 0);
    sched_yield();
  }
  outputs_free(outputs);
  return unused;
}

static void *listen(void *folder) {
  char message[200];
  for (int i = 0; i < 20; ++i) {
    HOLD(v2e_submit(engine, batch, 1) == V2E_INVALID || v2e_submit(engine, batch, 1) == V2E_BUSY);
    v2e_error(engine, message, sizeof message);
    HOLD(strstr(message, "batch") || strstr(message, "bytes"));
    if (i % 10 == 0) {
      v2e_engine *other;
      HOLD(v2e_open(folder, 1, &other) == V2E_OK);
      v2e_close(other);
    }
    sched_yield();
  }
  return NULL;
}

static void threads(char *folder, const char *frames_path) {
  size_t size;
  pthread_t all[6];
  void *(*work[6])(void *) = {produce, produce, consume, consume, listen, listen};
  batch = file_bytes(frames_path, &size);
  expected = outputs_new();
  need(v2e_submit(engine, batch, about->input_bytes));
  need(v2e_result(engine, expected));
  for (int i = 0; i < 6; ++i) HOLD(pthread_create(&all[i], NULL, work[i], folder) == 0);
  for (int i = 0; i < 6; ++i) HOLD(pthread_join(all[i], NULL) == 0);
  HOLD(taken == BATCHES);
  outputs_free(expected), free(batch);
}

static void misuse(const char *folder) {
  char message[8];
  uint8_t *own;
  uint32_t count;
  int32_t id;
  v2e_engine *other = NULL;
  v2e_segment segment;
  void **outputs = outputs_new();
  HOLD(v2e_open(folder, 1, NULL) == V2E_INVALID);
  HOLD(v2e_open(NULL, 1, &other) == V2E_INVALID && other);
  HOLD(v2e_describe(other, &about) == V2E_INVALID && v2e_input(other, &own) == V2E_INVALID);
  HOLD(v2e_submit(other, own = (uint8_t *)message, 1) == V2E_INVALID && v2e_result(other, outputs) == V2E_INVALID);
  HOLD(v2e_error(other, message, sizeof message) > sizeof message && strlen(message) == 7);
  HOLD(v2e_error(other, NULL, 0) > 8);
  v2e_close(other);
  HOLD(v2e_open(folder, 0, &other) == V2E_INVALID);
  v2e_close(other);
  HOLD(v2e_open(folder, 17, &other) == V2E_INVALID);
  v2e_close(other);
  HOLD(v2e_describe(engine, NULL) == V2E_INVALID && v2e_input(engine, NULL) == V2E_INVALID);
  HOLD(v2e_describe(NULL, &about) == V2E_INVALID && v2e_error(NULL, message, sizeof message) > 8);
  HOLD(v2e_submit(engine, NULL, about->input_bytes) == V2E_INVALID && v2e_submit(engine, own, 3) == V2E_INVALID);
  HOLD(v2e_result(engine, NULL) == V2E_INVALID && v2e_result(engine, outputs) == V2E_EMPTY);
  HOLD(v2e_segments(engine, (const void *const *)outputs, about->batch_size, &id, &segment, &count) == V2E_INVALID);
  HOLD(v2e_segments(engine, (const void *const *)outputs, 0, NULL, &segment, &count) == V2E_INVALID);
  outputs_free(outputs);
  v2e_close(NULL);
}

static int call(const char *name, void *argument, int device) {
  int (*function)(void *, int);
  void *symbol = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);
  HOLD(symbol != NULL);
  memcpy(&function, &symbol, sizeof function);
  return function(argument, device);
}

/* As a program with two GPUs, whose engine runs on the second. */
static void second(const char *folder, int gone) {
  void *own, *found;
  int (*release)(int);
  void *symbol = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuDevicePrimaryCtxRelease_v2");
  memcpy(&release, &symbol, sizeof release);
  HOLD(call("cuDevicePrimaryCtxRetain", &own, 1) == 0 && call("cuCtxSetCurrent", own, 0) == 0);
  need(v2e_open(folder, 1, &engine));
  need(v2e_describe(engine, &about));
  describe();
  HOLD(call("cuCtxGetCurrent", &found, 0) == 0 && found == own);
  HOLD(call("cuCtxSetCurrent", NULL, 0) == 0);
  if (gone) HOLD(release(1) == 0);
  v2e_close(engine);
  HOLD(call("cuCtxGetCurrent", &found, 0) == 0 && found == NULL);
  if (!gone) HOLD(release(1) == 0);
}

int main(int count, char **arguments) {
  HOLD(count >= 3);
  const char *what = arguments[1];
  if (strcmp(what, "second") == 0 || strcmp(what, "gone") == 0) return second(arguments[2], *what == 'g'), 0;
  const int numbered = strcmp(what, "open") == 0 || strcmp(what, "run") == 0;
  need(v2e_open(arguments[2], numbered ? (uint32_t)atoi(arguments[3]) : 3, &engine));
  need(v2e_describe(engine, &about));
  if (strcmp(what, "open") == 0) describe();
  if (strcmp(what, "run") == 0) run(arguments[4], arguments[5]);
  if (strcmp(what, "decode") == 0) decode(arguments[3], arguments[4]);
  if (strcmp(what, "threads") == 0) threads(arguments[2], arguments[3]);
  if (strcmp(what, "misuse") == 0) misuse(arguments[2]);
  v2e_close(engine);
  return 0;
}
