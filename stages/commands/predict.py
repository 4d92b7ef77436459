"""predict: run an engine on a picture, a folder, a video, a camera or a stream. Not a DVC stage.

Needs only the engine's folder. With --out it writes overlay.mp4, or a PNG for each picture, and segments.jsonl with one
line for each frame (docs/outputs.md). Ctrl-C ends a run with complete files. The exit status is 0 if at least one frame
was read. Files that can't be read are skipped, named in a warning and counted in the last line.

An engine on a GPU works on two frames of a recorded source at once: while the GPU computes one, the CPU reads and draws
another. A live source gets one frame at a time, so that its latency stays low. A CPU's engine computes in `submit` and
would gain nothing. With --shard it works on a part of a tree of pictures and videos (predict_tree.py).

With --track the objects of a video keep their numbers from frame to frame (docs/tracking.md).

With ALLOWED_SIGNERS an engine is loaded only if it is of a release that one of them signed (`make get`).
"""

import contextlib
import logging
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import config
from stages.commands import predict_tree
from stages.engines import loading, manifest
from stages.foundation import command_line, files, picture_limit
from stages.inference.latencies import Latencies
from stages.media import drawing, recording, segment_list, tracking
from stages.media.drawing import Painter
from stages.media.frame_sources import FrameSource, SourceFrame, open_source
from stages.releases import received

log = logging.getLogger(__name__)

WINDOW = 100
"""Number of last frames whose rate and latency are shown on the overlay and in the terminal."""


@dataclass(frozen=True)
class Summary:
    """Figures of a run."""

    frames: int
    seconds: float
    latency_p50_ms: float
    """From a frame's start to its map of segments; see `build`."""
    latency_p99_ms: float
    skipped: int
    """Files, or frames of a video, that could not be read."""
    dropped: int
    """Frames of a live source that were replaced by newer ones."""


def build(
    engine: Path, source: FrameSource, out: Path | None, limit: int = 0, in_flight: int = 0, track: bool = False
) -> Summary:
    """Run the engine of folder `engine` on a source; write the files of docs/outputs.md to the folder `out` if given.

    Ends with the source, after `limit` frames if that is above 0, or by source.stop(). `in_flight` is the number of
    frames that the engine works on at once; 0 chooses 1 or 2, see the module. Order and results don't depend on it.

    A frame's latency starts when it arrives from a live source, or when it has been read from a recorded one. It ends
    when its map is decoded, before it is drawn and written. With two frames in flight it includes the time for which a
    frame waits for the one before it.

    `track` links the segments of the frames, which then come in the order of time, and writes their track ids.

    Raises RuntimeError if the engine is not for this host, and ValueError if no frame could be read; then `out` is as
    it was. Raises ValueError if there is nothing to track.
    """
    if limit < 0:
        raise ValueError(f"--limit {limit}: expected 0, for all frames, or more")
    if track and source.still and len(source.names) < 2:
        raise ValueError(
            f"--track: {source.label} is one picture, expected a video, a camera, a stream, or a folder with the "
            "frames of a video in the order of their names"
        )
    name, target = manifest.target_of(engine)
    if not in_flight:
        in_flight = predict_tree.in_flight_of(target, source.live)
    predictor = loading.load(engine, name, target, in_flight)
    if track and (mode := predictor.description.config.mode) is config.Mode.semantic:
        raise ValueError(f"--track: the engine's deploy.mode is {mode.value}, which has no objects; expected another")
    painter = Painter(predictor.description.categories)
    tracker = tracking.Tracker(painter.categories) if track else None
    latencies, latest_ms = Latencies(), deque[float](maxlen=WINDOW)
    submitted: deque[tuple[SourceFrame, float]] = deque()
    ends: deque[float] = deque([time.perf_counter()], maxlen=WINDOW)
    begin = time.perf_counter()

    def finish_oldest(record: recording.Recording | None) -> None:
        """Wait for the oldest submitted frame, then draw and write it."""
        frame, start = submitted.popleft()
        (segments,) = predictor.result()
        latest_ms.append(1000 * (time.perf_counter() - start))
        latencies.add(latest_ms[-1])
        rate = len(ends) / max(time.perf_counter() - ends[0], 1e-9)
        status = f"{rate:.1f} Hz, {statistics.median(latest_ms):.1f} ms"
        if record:
            rows = segment_list.rows(segments, painter.categories, tracker.update(segments) if tracker else None)
            overlay = painter.draw(frame.rgb, segments, [f"{name}: {status}"], _tracked(rows))
            record.write(frame, overlay, recording.describe(frame, segments, rows, latest_ms[-1]))
        ends.append(time.perf_counter())
        if sys.stderr.isatty():
            print(f"\r{latencies.count} frames, {status}, {source.dropped} dropped ", end="", file=sys.stderr)

    with contextlib.ExitStack() as stack:
        record = stack.enter_context(recording.Recording(out, source)) if out else None
        source.buffer = predictor.frame_buffer()
        for frame in source:
            start = frame.arrived_s if source.live else time.perf_counter()
            predictor.submit([frame.rgb])
            submitted.append((frame, start))
            if latencies.count + len(submitted) == limit:
                source.stop()
            if len(submitted) == in_flight:
                finish_oldest(record)
            # The next frame is written here. The engine's memory of the frame drawn above is free only now.
            source.buffer = predictor.frame_buffer()
        while submitted:
            finish_oldest(record)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not latencies.count:
        raise ValueError(source.no_frames() + (f"; {files.printable(out)} is as it was" if out else ""))
    p50, p99 = (latencies.percentile(percent) for percent in (50, 99))
    seconds = time.perf_counter() - begin
    return Summary(latencies.count, seconds, p50, p99, source.skipped, source.dropped)


def _tracked(rows: Sequence[segment_list.Row]) -> dict[int, drawing.Tracked]:
    """Return the things that are tracked by segment id, with the middle of their boxes."""
    result = {}
    for row in rows:
        if row["isthing"] and "track_id" in row:
            left, top, width, height = row["bbox"]
            result[row["id"]] = drawing.Tracked(row["track_id"], left + width // 2, top + height // 2)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `make predict`. `arguments` are those of the process by default."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine, such as data/engines/cpu")
    parser.add_argument("--source", required=True, help="picture, folder, video, camera number, or URL (rtsp://...)")
    parser.add_argument("--out", type=Path, help="folder for overlays and segments.jsonl; default: nothing is written")
    parser.add_argument("--limit", type=int, default=0, help="end after this many frames; 0: at the source's end")
    parser.add_argument(
        "--max-picture-mpx", type=int, default=picture_limit.DEFAULT_MPX, help="most pixels of a picture, in millions"
    )
    parser.add_argument("--shard", metavar="I/N", help="do part I of N of the tree SOURCE (docs/shards.md)")
    parser.add_argument("--track", action="store_true", help="number the objects of a video (docs/tracking.md)")
    parser.add_argument("--gather", action="store_true", help="write the result of all shards of the tree SOURCE")
    args = parser.parse_args(arguments)
    received.check_engine(args.engine)
    picture_limit.set_limit(args.max_picture_mpx)
    if args.track and (args.shard or args.gather or args.out is None):
        raise ValueError(
            "--track needs OUT, where the numbers are written, and excludes --shard and --gather, whose trees have "
            "pictures without an order; run it on each video"
        )
    if args.shard or args.gather:
        if args.out is None or args.limit or (args.shard and args.gather):
            raise ValueError("--shard and --gather need OUT, exclude each other, and take no --limit")
        if args.gather:
            predict_tree.gather(Path(args.source), args.out)
        else:
            shard, count = predict_tree.parse_shard(args.shard)
            predict_tree.run_shard(args.engine, Path(args.source), args.out, shard, count)
        return
    source = open_source(args.source)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: source.stop())
    done = build(args.engine, source, args.out, args.limit, track=args.track)
    where = files.printable(f"; see {args.out}") if args.out else ""
    log.info(
        "%d frames in %.1f s (%.1f Hz), latency p50 %.1f ms, p99 %.1f ms; %d skipped, %d dropped%s",
        done.frames, done.seconds, done.frames / max(done.seconds, 1e-9), done.latency_p50_ms, done.latency_p99_ms,
        done.skipped, done.dropped, where,
    )  # fmt: skip


if __name__ == "__main__":
    command_line.run(main)
