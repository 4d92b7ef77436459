"""Runs an engine on frames by Python's runtime, as tests/support/cpp_client.c does by the C++ library: peer.py ENGINE
IN_FLIGHT FRAMES OUT. With SEGMENTS as a fifth argument also the map and the line of segments.jsonl of each picture."""

import json
import sys
from pathlib import Path

import numpy as np

from stages.engines import interface, loading, manifest
from stages.media import segment_list


def main(folder: Path, in_flight: int, frames: Path, out: Path, segments: Path | None = None) -> None:
    name, target = manifest.target_of(folder)
    if segments is not None:
        predictor = loading.load(folder, name, target, in_flight)
        height, width = predictor.cfg.frame_height_px, predictor.cfg.frame_width_px
        categories = {category["id"]: category for category in predictor.description.categories}
        pictures = np.fromfile(frames, np.uint8).reshape(-1, height, width, 3)
        with segments.open("w") as lines, out.open("wb") as maps:
            for start in range(0, len(pictures), predictor.cfg.batch_size):
                for found in predictor.segments([*pictures[start : start + predictor.cfg.batch_size]]):
                    maps.write(found.ids.astype(">u2").tobytes())
                    lines.write(json.dumps(segment_list.rows(found, categories)) + "\n")
        return
    engine = manifest.verified_engine(folder, name, target)
    runtime = interface.backend(target).load(engine.path, target, in_flight)
    batch = runtime.input_buffer()
    waiting, queued = [*np.fromfile(frames, np.uint8).reshape(-1, *batch.shape)], 0
    with out.open("wb") as file:
        while waiting or queued:
            if waiting:
                runtime.submit(waiting.pop(0))
                queued += 1
                if queued < in_flight:
                    continue
            for array in runtime.result().values():
                file.write(array.tobytes())
            queued -= 1


main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), *map(Path, sys.argv[5:]))
