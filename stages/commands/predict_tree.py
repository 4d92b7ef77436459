"""predict over a tree: run an engine on a part of the pictures and videos below a folder, as `predict --shard I/N`.

Shards may run at once, on many machines that see the same folders, and again after a kill: what is done is not done
again. The files and their bytes are the same for any N (docs/shards.md).
"""

import dataclasses
import logging
import re
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from stages import config
from stages.engines import loading, manifest
from stages.foundation import files, locks
from stages.inference.segments import Segments
from stages.media import recording, segment_list
from stages.media.drawing import Painter
from stages.media.frame_sources import FrameSource, PictureFiles, SourceFrame, VideoFile
from stages.media.picture_tree import Item, items
from stages.media.tree_results import Journal, Record, Results, Run

log = logging.getLogger(__name__)

GPU_FRAMES_IN_FLIGHT = 2
"""An engine on a GPU computes one frame while the CPU reads and draws another."""


def in_flight_of(target: config.Target, live: bool = False) -> int:
    """Return how many frames an engine should work on at once."""
    return 1 if live or target.builder in config.CPU_BUILDERS else GPU_FRAMES_IN_FLIGHT


def parse_shard(text: str) -> tuple[int, int]:
    """Parse `I/N`. Raises ValueError unless I is 1 to N."""
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    shard, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= shard <= count:
        raise ValueError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/4")
    return shard, count


def run_shard(engine: Path, tree: Path, out: Path, shard: int, count: int) -> tuple[int, int]:
    """Work on items `shard`, `shard` + `count`, ... of the tree; return the numbers of items done and to be done.

    Writes the results of all shards together if these are the last. Raises ValueError if `out` is in the tree or holds
    what no shard wrote, LockedError if another process works on the same shard, and RuntimeError if the engine is not
    for this host.
    """
    _require_apart(tree, out)
    listed, others = items(tree)
    if not listed:
        raise ValueError(f"{files.printable(tree)} has no pictures or videos below it; give SOURCE another folder")
    if others and shard == 1:
        log.info("%s: %d files that are no pictures or videos are not read", files.printable(tree), others)
    name, target = manifest.target_of(engine)
    in_flight = in_flight_of(target)
    predictor = loading.load(engine, name, target, in_flight)
    work = _Work(Results(out), predictor, in_flight)
    work.results.open(Run(name, predictor.engine_sha256))
    mine = listed[shard - 1 :: count]
    with Journal(work.results, shard, count) as journal:
        left = [item for item in mine if not work.results.is_done(item, journal.records.get(item.key))]
        pictures = [item for item in left if item.is_picture]
        videos = [item for item in left if not item.is_picture]
        log.info("shard %d/%d: %d of %d are left to do", shard, count, len(left), len(mine))
        work.on_pictures(pictures, journal)
        for item in videos:
            work.on_video(item, journal)
    records, _ = work.results.read()
    if not work.results.missing(listed, records):
        try:
            log.info("all shards are done; %s", _told(work.results.gather(listed), out))
        except locks.LockedError:
            log.info("all shards are done; another one gathers the results")
    return len(mine) - len(left), len(left)


def gather(tree: Path, out: Path) -> None:
    """Write segments.jsonl and summary.json of all shards. Raises as Results.gather and picture_tree.items do."""
    log.info(_told(Results(out).gather(items(tree)[0]), out))


def _told(summary: dict[str, object], out: Path) -> str:
    unreadable = summary["unreadable"]
    count = len(unreadable) if isinstance(unreadable, dict) else 0
    return (
        f"{summary['pictures']} pictures and {summary['videos']} videos of {summary['frames']} frames in all, {count} "
        f"files could not be read; see {files.printable(out)}"
    )


def _require_apart(tree: Path, out: Path) -> None:
    if out.resolve().is_relative_to(tree.resolve()):
        raise ValueError(f"{files.printable(out)} is in SOURCE, so its pictures would be read; give OUT another folder")


class _Work:
    """An engine and the folder of its results."""

    def __init__(self, results: Results, predictor: loading.EnginePredictor, in_flight: int) -> None:
        self.results = results
        self._predictor, self._in_flight = predictor, in_flight
        self._painter = Painter(predictor.description.categories)
        self._done = 0

    def on_pictures(self, pictures: list[Item], journal: Journal) -> None:
        """Predict pictures; note those that can't be read."""

        def read() -> Iterator[tuple[Item, SourceFrame]]:
            for item in pictures:
                source = PictureFiles(str(item.path), [item.path])
                for frame in source:
                    yield item, dataclasses.replace(frame, name=item.key)
                if source.skipped:
                    journal.end(item, _unreadable(item, source, True))

        for item, frame, found in self._predicted(read()):
            overlay = self._painter.draw(frame.rgb, found, [])
            output = self.results.output(item, True)
            journal.begin(item, output)
            output.parent.mkdir(parents=True, exist_ok=True)
            recording.write_png(journal.draft, overlay)
            journal.draft.replace(output)
            line = recording.describe(frame, found, segment_list.rows(found, self._painter.categories))
            journal.end(item, Record(item.size_bytes, item.modified_ns, 1, 0, "", True, line))

    def on_video(self, item: Item, journal: Journal) -> None:
        """Predict a video into a folder of its own; note it if it can't be read."""
        output = self.results.output(item, False)
        try:
            source = VideoFile(str(item.path))
        except (OSError, ValueError) as error:
            log.warning(files.printable(str(error)))
            journal.end(item, Record(item.size_bytes, item.modified_ns, 0, 0, str(error), False))
            return
        journal.begin(item, output)
        frames = 0
        try:
            with files.atomic_write(output) as draft:
                with recording.Recording(draft, source) as record:
                    for _, frame, found in self._predicted((item, frame) for frame in source):
                        overlay = self._painter.draw(frame.rgb, found, [])
                        rows = segment_list.rows(found, self._painter.categories)
                        record.write(frame, overlay, recording.describe(frame, found, rows))
                        frames += 1
                if not frames:
                    raise _NoFramesError
        except _NoFramesError:
            log.warning(source.no_frames())
            journal.end(item, _unreadable(item, source, False))
            return
        journal.end(item, Record(item.size_bytes, item.modified_ns, frames, source.skipped, "", False))

    def _predicted(self, frames: Iterator[tuple[Item, SourceFrame]]) -> Iterator[tuple[Item, SourceFrame, Segments]]:
        """Yield each frame with its segments, in order."""
        waiting: deque[tuple[Item, SourceFrame]] = deque()

        def oldest() -> tuple[Item, SourceFrame, Segments]:
            item, frame = waiting.popleft()
            (found,) = self._predictor.result()
            self._done += 1
            if sys.stderr.isatty():
                print(f"\r{self._done} frames ", end="", file=sys.stderr)
            return item, frame, found

        for item, frame in frames:
            self._predictor.submit([frame.rgb])
            waiting.append((item, frame))
            if len(waiting) == self._in_flight:
                yield oldest()
        while waiting:
            yield oldest()


class _NoFramesError(Exception):
    """A video had no frame, so its folder is left as it was."""


def _unreadable(item: Item, source: FrameSource, is_picture: bool) -> Record:
    """Return the record of an item without a frame."""
    return Record(item.size_bytes, item.modified_ns, 0, source.skipped, "no frame could be read", is_picture)
