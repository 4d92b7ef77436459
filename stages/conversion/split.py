"""Converts the pictures of one split in several processes, and decides whether the result can be used."""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence

from stages import config
from stages.conversion import journal, picture, split_files
from stages.conversion.records import Record
from stages.conversion.statistics import Statistics
from stages.foundation import parallel
from stages.foundation.coco_types import Category
from stages.sets.raw_set import Problem
from stages.vistas import plausibility

log = logging.getLogger(__name__)


def convert(
    name: str,
    work: Sequence[picture.Work],
    settings: picture.Settings,
    categories: Sequence[Category],
    masks: dict[str, plausibility.MaskStatistics],
    cfg: config.Data,
) -> Statistics:
    """Convert the pictures that an interrupted run has not finished, and write the files of the split `name`.

    `masks` has an empty object for each source in Vistas layout; the masks of the split are added to it. Raises as
    convert.build does.
    """
    path, counted = settings.folder / journal.FILE_NAME, Statistics(categories, settings.sources)
    done = journal.resume(path, journal.fingerprint(work, settings, categories))
    for folder in ("panoptic", "semantic"):
        (settings.folder / folder).mkdir(exist_ok=True)
    if done:
        log.info("%s: %d of %d pictures were converted by an interrupted run", name, done, len(work))
    workers = parallel.count(cfg.workers, len(work) - done)
    convert_one = functools.partial(_convert_one, settings=settings, skip=cfg.on_error is config.OnError.skip)
    records = journal.extended(path, parallel.ordered(convert_one, work[done:], workers, name, done))
    split_files.write(_count_masks(records, masks), settings, categories, counted)
    _check_masks(name, masks, cfg.check_masks)
    if counted.skipped and cfg.on_error is not config.OnError.skip:
        # The journal was begun by a run with on_error: skip.
        raise ValueError(counted.skipped[0])
    if len(counted.skipped) > cfg.max_skipped:
        found = f"{len(counted.skipped)} pictures can't be converted, expected at most {cfg.max_skipped}"
        raise ValueError(f"{name}: {found} (data.max_skipped): {'; '.join(counted.skipped[:3])}")
    if not counted.summary()["images"]:
        raise ValueError(
            f"{name}: none of {len(work)} pictures can be used, {len(counted.empty)} have no segment of any class; "
            "check data.splits and the taxonomies of data.sources"
        )
    for message in (*counted.empty, *counted.skipped):
        log.warning("%s: %s", name, message)
    return counted


def _convert_one(work: picture.Work, settings: picture.Settings, skip: bool) -> Record:
    """Return the record of a picture. With `skip` a picture that can't be converted gets a record, else it raises."""
    try:
        if isinstance(work, Problem):
            raise ValueError(work.message)
        try:
            return picture.convert(work, settings)
        except picture.EmptyError as empty:
            return {"empty": str(empty), "mask": empty.mask}
    except ValueError as error:
        if not skip:
            raise
        return {"skipped": str(error)}


def _count_masks(records: Iterable[Record], masks: dict[str, plausibility.MaskStatistics]) -> Iterator[Record]:
    """Yield the records, and add the mask of each to the statistics of its source."""
    for record in records:
        if "mask" in record and (mask := record["mask"])["source"] in masks:
            masks[mask["source"]].add(mask["file"], mask["values"], mask["pixels"])
        yield record


def _check_masks(name: str, masks: dict[str, plausibility.MaskStatistics], check: config.CheckMasks) -> None:
    """Raise ValueError, or warn, where the masks of a source do not look like label * 256 + instance."""
    for source, found in masks.items():
        problem = found.problem()
        if problem and check is config.CheckMasks.fail:
            raise ValueError(f"{name} of source {source}: {problem}")
        if problem:
            log.warning("%s of source %s: %s", name, source, problem)
