"""benchmark@TARGET: measure the latency of an engine, and of TAO's network in PyTorch eager mode in the same run.

Without a checkpoint it times the engine only, as on a board, which has no PyTorch.

`network` is one call of the engine, whose graph includes the merge, or of PyTorch's network, which has none.
`end_to_end` is from a decoded picture of the validation set to its map, with pre- and post-processing. Times are
per frame: the time of an engine's batch is divided by the batch size. The calls take turns, so that a change in the
machine's speed affects all of them. Cost: frames x (both latencies). Not deterministic.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from stages import config
from stages.coco import panoptic
from stages.engines import build_record, loading, manifest
from stages.foundation import command_line, files, picture_files
from stages.inference import frames

log = logging.getLogger(__name__)

Calls = tuple[Callable[[Any], object], Sequence[Any]]
"""A function of one argument, and its arguments."""


class Timing(TypedDict):
    """Latency of a frame, in milliseconds, and the rate."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    quantiles_ms: list[float]
    """21 values: the smallest, those at each 5 %, and the largest."""
    hz: float
    """Frames per second at the median."""


def build(engine: Path, checkpoint: Path | None, coco: Path, metrics: Path, name: str, cfg: config.Config) -> None:
    """Time the engine of folder `engine`, and the checkpoint if given, on pictures of the split at `coco`.

    Writes the JSON file `metrics`. `name` is the engine's target. Raises RuntimeError where the engine is not for this
    host.
    """
    target = config.find_target(cfg, name)
    truth = panoptic.read(coco)
    predictor = loading.load(engine, name, target)
    pictures = [picture_files.read_rgb(entry.image) for entry in truth.entries[: cfg.benchmark.pictures]]
    inputs = [frames.fit(picture, cfg.deploy)[0] for picture in pictures]
    batch_size = cfg.deploy.batch_size

    calls: dict[str, Calls] = {
        "engine.network": (lambda frame: predictor.run(np.repeat(frame[None], batch_size, 0)), inputs),
        "engine.end_to_end": (lambda picture: predictor.segments([picture] * batch_size), pictures),
    }
    versions = {"builder": f"{target.builder.value} {manifest.facts(engine)['builder_version']}"}
    if checkpoint:
        import torch

        from stages.reference.tao_model import Checkpoint

        torch.set_num_threads(target.threads)
        eager = Checkpoint(checkpoint, truth.num_things, cfg.deploy)
        calls |= {"eager.network": (eager.logits, inputs), "eager.end_to_end": (eager.segments, pictures)}
        versions["torch"] = torch.__version__
    seconds = take_turns(calls, cfg.benchmark.warmup_frames, cfg.benchmark.frames)
    timings: dict[str, dict[str, Timing]] = {}
    for key, values in seconds.items():
        who, what = key.split(".")
        timings.setdefault(who, {})[what] = summary(values, batch_size if who == "engine" else 1)
    result: dict[str, object] = {"engine_sha256": predictor.engine_sha256, **timings}
    if checkpoint:
        # Not for `network`: the engine's graph merges, PyTorch's network does not.
        eager_ms, engine_ms = (timings[who]["end_to_end"]["p50_ms"] for who in ("eager", "engine"))
        result["speedup_end_to_end"] = eager_ms / engine_ms
    built = build_record.read(engine, predictor.engine_sha256)
    commit, dirty = build_record.git_state()
    result |= {
        "frames": cfg.benchmark.frames,
        "host": {**asdict(build_record.host(target)), "threads": target.threads, **versions},
        "date": build_record.now(),
        "commit": commit,
        "dirty": dirty,
        # Absent where the engine came from DVC's cache, which has no build.json.
        "built": asdict(built) if built else None,
    }
    files.write_json(metrics, result)
    log.info("%s: %.2f Hz end to end", name, timings["engine"]["end_to_end"]["hz"])


def take_turns(calls: Mapping[str, Calls], warmup: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call in each of `rounds` rounds, after `warmup` rounds that do not count.

    A round makes each call once. A call takes its arguments in turn.
    """
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for round_ in range(warmup + rounds):
        for key, (call, arguments) in calls.items():
            argument = arguments[round_ % len(arguments)]
            start = time.perf_counter()
            call(argument)
            if round_ >= warmup:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float], frames: int) -> Timing:
    """Return the timing of a frame. `seconds` are the times of calls with `frames` frames each."""
    milliseconds = 1000 / frames * np.asarray(seconds)
    p50, p90, p99 = (float(x) for x in np.percentile(milliseconds, (50, 90, 99)))
    quantiles = np.percentile(milliseconds, np.linspace(0, 100, 21)).round(3).tolist()
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "quantiles_ms": quantiles, "hz": 1000 / p50}


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder that engine wrote")
    parser.add_argument("--checkpoint", type=Path, help="folder that train wrote; default: time the engine only")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args()
    build(args.engine, args.checkpoint, args.coco, args.metrics, args.target, config.load(args.params))


if __name__ == "__main__":
    command_line.run(main)
