"""Measures `predict --track` on a street that moves: identity switches, VPQ, milliseconds a frame (docs/tracking.md).

Run: python -m benchmarks.tracking --out data/bench/tracking.json. Needs no engine: the segments are those of the truth,
with other numbers in each frame, ragged borders, and some objects that are not found for some frames.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import moving_street
from benchmarks.moving_street import CATEGORIES
from benchmarks.video_quality import LinkedMap, VideoQuality
from stages.engines.manifest import cpu_model
from stages.foundation import command_line, files
from stages.inference.segments import Segments
from stages.media import tracking

WINDOWS = (1, 5, 10, 15)
"""Frames of the tubes of VPQ."""
THINGS = {i for i, category in CATEGORIES.items() if category["isthing"]}


@dataclass(frozen=True)
class Faults:
    """How far the segments are off the truth."""

    missed: float
    """Chance that an object is not found from a frame on that it was found before."""
    missed_frames: int
    """Mean number of frames for which it is not found."""
    border_px: int
    """A border lies up to so many pixels off."""


def degraded(truth: Sequence[moving_street.Frame], faults: Faults, seed: int = 0) -> list[Segments]:
    """Return what a network might find in the frames of `truth`. Numbers differ from frame to frame."""
    rng = np.random.default_rng(seed)
    gone: dict[int, int] = {}
    result = []
    for frame in truth:
        ids = frame.ids
        if faults.border_px:
            noise = rng.normal(0, 1, (2, *(max(2, edge // 8) for edge in ids.shape))).astype(np.float32)
            offsets = [cv2.resize(one, ids.shape[::-1]) * np.float32(faults.border_px) for one in noise]
            rows, columns = np.mgrid[: ids.shape[0], : ids.shape[1]].astype(np.float32)
            moved = cv2.remap(ids.astype(np.float32), columns + offsets[0], rows + offsets[1], cv2.INTER_NEAREST)
            ids = moved.astype(np.int32)
        present = set(np.unique(ids).tolist()) - {0}
        for number in sorted(present):
            if frame.category_ids.get(number) in THINGS:
                if gone.get(number, 0):
                    gone[number] -= 1
                elif rng.random() < faults.missed:
                    gone[number] = int(rng.geometric(1 / faults.missed_frames))
        shown = [i for i in sorted(present) if not gone.get(i) and i in frame.category_ids]
        numbers = rng.permutation(len(shown)) + 1
        table = np.zeros(int(frame.ids.max()) + 1, np.int32)
        table[shown] = numbers
        # In the place of an object that is not found lies what is around it.
        pairs = sorted(zip(numbers.tolist(), shown, strict=True))
        result.append(Segments(table[ids], {k: frame.category_ids[i] for k, i in pairs}))
    return result


def linked(found: Sequence[Segments], tracker: tracking.Tracker) -> list[LinkedMap]:
    """Return the segments with track ids."""
    result = []
    for one in found:
        track_ids = tracker.update(one)
        table = np.zeros(max([int(one.ids.max()), *one.category_ids]) + 1, np.int32)
        for segment, track_id in track_ids.items():
            table[segment] = track_id
        result.append(LinkedMap(table[one.ids], {track_ids[i]: c for i, c in one.category_ids.items()}))
    return result


def quality(truth: Sequence[moving_street.Frame], found: Sequence[LinkedMap], windows: Sequence[int]) -> dict[str, Any]:
    """Return switches, found objects, and VPQ of all classes and of things by window."""
    measured = VideoQuality([LinkedMap(frame.ids, frame.category_ids) for frame in truth], found)
    switches, matches = measured.identity_switches(THINGS)
    vpq = {k: measured.vpq(k, list(CATEGORIES.values())) for k in windows}
    return {
        "switches": switches,
        "found": matches,
        "vpq": {k: {group: round(one[group]["pq"], 1) for group in ("all", "things")} for k, one in vpq.items()},
    }


def timing(found: Sequence[Segments], **settings: Any) -> dict[str, float]:
    """Return milliseconds a frame of the tracker alone."""
    tracker, times = tracking.Tracker(CATEGORIES, **settings), []
    for one in found:
        # As in predict, where the map has just been written.
        fresh = Segments(one.ids.copy(), one.category_ids)
        begin = time.perf_counter()
        tracker.update(fresh)
        times.append(1000 * (time.perf_counter() - begin))
    return {"p50_ms": round(statistics.median(times), 3), "p99_ms": round(float(np.percentile(times, 99)), 3)}


FAULTS = {
    "none": Faults(0.0, 1, 0),
    "some": Faults(0.02, 3, 2),
    "many": Faults(0.05, 6, 4),
}
OTHERS: list[dict[str, Any]] = [
    *({"max_missed": frames} for frames in (0, 5, 10, 40)),
    *({"min_iou": iou} for iou in (0.0, 0.1, 0.3, 0.5)),
    *({"sampled_rows": count} for count in (180, 360, 720)),
]
"""Other settings of the tracker."""


def main() -> None:
    """Command line of the benchmark."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--size", type=int, nargs=2, default=[720, 1280], help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--fps", type=float, default=moving_street.FPS)
    parser.add_argument("--others", action="store_true", help="measure other settings of the tracker too")
    args = parser.parse_args()
    truth = list(moving_street.paint(*args.size, args.frames, fps=args.fps))
    rows = []
    for name, faults in FAULTS.items():
        found = degraded(truth, faults)
        row = {"faults": name, **quality(truth, linked(found, tracking.Tracker(CATEGORIES)), WINDOWS), **timing(found)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        for settings in OTHERS if args.others else ():
            links = linked(found, tracking.Tracker(CATEGORIES, **settings))
            row = {"faults": name, **settings, **quality(truth, links, (15,)), **timing(found, **settings)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    about = {"cpu": cpu_model(), "size": args.size, "frames": args.frames, "fps": args.fps}
    files.write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    command_line.run(main)
