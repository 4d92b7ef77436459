"""predict: an engine on pictures, a video, a camera or a stream, to overlays and segments. No DVC stage.

Needs the engine's folder alone. With --out: overlay.mp4, or a PNG for each picture, and segments.jsonl, a line for each
(docs/outputs.md). A live source gives its newest frame, so that the answer never lags behind. Ctrl-C ends a run
cleanly, its files whole. The exit status is 0 where at least one picture was worked on: skipped ones are told by name,
where they have one, and counted in the last line.
"""

import argparse
import contextlib
import logging
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.engines import loading, manifest
from stages.foundation import files
from stages.media import recording
from stages.media.drawing import Painter
from stages.media.sources import Source, open_source

log = logging.getLogger(__name__)

WINDOW = 100
"""Pictures that rate and latency on the overlay and the terminal are of."""


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    pictures: int
    seconds: float
    latency_p50_ms: float
    """From a frame's arrival to its map, without drawing and writing."""
    latency_p99_ms: float
    skipped: int
    dropped: int


def build(engine: Path, source: Source, out: Path | None, limit: int = 0) -> Summary:
    """Run the engine of folder `engine` on a source, and write what docs/outputs.md says to the folder `out` if given.

    Ends with the source, after `limit` pictures if that is above 0, or by source.stop(). Raises RuntimeError where the
    engine is not for this host, and ValueError where no picture could be read; then `out` is as it was.
    """
    if limit < 0:
        raise ValueError(f"--limit {limit}: expected 0, for all pictures, or more")
    name, target = manifest.target_of(engine)
    predictor = loading.load(engine, name, target)
    source.buffer = predictor.frame_buffer()
    painter = Painter(predictor.description.categories)
    latencies: list[float] = []
    ends: deque[float] = deque([time.perf_counter()], maxlen=WINDOW)
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(recording.Recording(out, source)) if out else None
        for picture in source:
            # A file waits for us, a camera's frame does not.
            start = picture.taken if source.live else time.perf_counter()
            (segments,) = predictor.segments([picture.rgb])
            latencies.append(1000 * (time.perf_counter() - start))
            recent = float(np.median(latencies[-WINDOW:]))
            rate = len(ends) / max(time.perf_counter() - ends[0], 1e-9)
            status = f"{rate:.1f} Hz, {recent:.1f} ms"
            if record:
                painted = painter.draw(picture.rgb, segments, [f"{name}: {status}"])
                line = recording.describe(picture, segments, painter.categories, latencies[-1])
                record.write(picture, painted, line)
            ends.append(time.perf_counter())
            if sys.stderr.isatty():
                print(f"\r{len(latencies)} pictures, {status}, {source.dropped} dropped ", end="", file=sys.stderr)
            if len(latencies) == limit:
                source.stop()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not latencies:
        raise ValueError(source.nothing() + (f"; {out} is as it was" if out else ""))
    p50, p99 = (float(np.percentile(latencies, p)) for p in (50, 99))
    seconds = time.perf_counter() - begin
    return Summary(len(latencies), seconds, p50, p99, source.skipped, source.dropped)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine, such as data/engines/cpu")
    parser.add_argument(
        "--source", required=True, help="picture, folder, video, number of a camera, or URL (rtsp://...)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for overlays and segments.jsonl; without it only rates are told"
    )
    parser.add_argument("--limit", type=int, default=0, help="pictures after which to end; 0: at the source's end")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        source = open_source(args.source)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: source.stop())
        done = build(args.engine, source, args.out, args.limit)
    except (OSError, RuntimeError, ValueError, ImportError, cv2.error) as error:
        parser.exit(1, f"{files.printable(str(error).strip())}\n")
    except KeyboardInterrupt:
        # While a source is opened there is nothing yet to end cleanly.
        parser.exit(130)
    where = files.printable(f"; see {args.out}") if args.out else ""
    log.info(
        "%d pictures in %.1f s (%.1f Hz), latency p50 %.1f ms, p99 %.1f ms; %d skipped, %d dropped%s",
        done.pictures, done.seconds, done.pictures / max(done.seconds, 1e-9), done.latency_p50_ms, done.latency_p99_ms,
        done.skipped, done.dropped, where,
    )  # fmt: skip


if __name__ == "__main__":
    main()
