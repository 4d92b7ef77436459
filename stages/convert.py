"""convert: sets in Mapillary Vistas layout -> the COCO files that TAO 7.3 reads.

Output, for each of train and val: panoptic.json and panoptic/*.png, instances.json (things only, compressed RLE),
semantic.jsonl and semantic/*.png (mode L, 0 = ignore), and images/* of pictures that are scaled or turned, or of which
TAO would read other pixels than an engine; file names are relative to the split's folder. And label_map.json and
statistics.json. Formats: cocodataset.org/#format-data; TAO's own loaders. Cost: dominated by decoding pictures, by both
libraries that will read them, and PNGs. Deterministic: ids follow sources and sorted keys, for any number of workers. A
run that was interrupted is gone on with.
"""

import argparse
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages import config
from stages.coco import panoptic, png, rle
from stages.coco.stream import CocoJson
from stages.conversion import picture, readers, taxonomy
from stages.conversion.statistics import Statistics
from stages.foundation import files, names, panoptic_ids, parallel, picture_files, text
from stages.vistas import plausibility, reader

log = logging.getLogger(__name__)

RECORDS = "records.jsonl"
"""In the draft of a split: a line for each picture that is done, in order."""
Work = picture.Task | reader.Problem


def build(root: Path, out: Path, metrics: Path, tables: Path, cfg: config.Data) -> None:
    """Convert the sources at `root` into the folder `out`; write counts to the JSON file `metrics`.

    `tables` is the folder of taxonomies and lists of splits. Image and annotation ids start at 1. Both splits list the
    same categories, unused ones included. Raises FileNotFoundError or ValueError, naming the file, where a set is not
    as expected and data.on_error is not skip, or more than data.max_skipped pictures are not; RuntimeError where a
    worker dies.
    """
    sources = cfg.sources or {"vistas": config.Source()}
    found = {name: reader.find(source, root, f"data.sources.{name}") for name, source in sources.items()}
    rows = {name: _rows(tables, sources[name].taxonomy, found[name]) for name in found}
    categories, targets = taxonomy.build({name: (found[name].labels, rows[name]) for name in found})
    things = frozenset(c["id"] for c in categories if c["isthing"])
    summary: dict[str, Any] = {"classes": len(categories), "things": len(things)}
    statistics: dict[str, Any] = {"sources": {n: {"version": s.version, "root": str(s.root)} for n, s in found.items()}}
    with files.atomic_write(out, keep=True) as draft:
        draft.mkdir(exist_ok=True)
        files.write_json(
            draft / "label_map.json", [{k: c[k] for k in ("id", "name", "color", "isthing")} for c in categories]
        )
        limits = picture.Limits(cfg.max_edge_px, cfg.min_segment_px, cfg.small_segments)
        labels = {name: picture.labels(targets[name], things) for name in found}
        for split in reader.SPLITS:
            work = [
                scene if isinstance(scene, reader.Problem) else picture.Task(scene, source, name)
                for source, name, scene in _scenes(found, split, tables, cfg)
            ]
            plan = picture.Plan(labels, things, draft / split, out / split, limits, cfg.bare_file_names)
            masks = {name: plausibility.Masks(vistas.labels) for name, vistas in found.items()}
            counted = _split(work, plan, split, categories, masks, cfg)
            summary[split], statistics[split] = counted.summary(), counted.content()
            log.info("%s: %s", split, summary[split])
        files.write_json(draft / "statistics.json", statistics)
    for split in reader.SPLITS:
        (out / split / RECORDS).unlink()
    files.write_json(metrics, summary)


def _rows(tables: Path, name: str, found: reader.VistasSet) -> list[taxonomy.Row]:
    if name:
        return taxonomy.read(tables / f"{name}.csv", found.labels)
    return taxonomy.as_evaluated(found.labels, str(found.config))


def _scenes(
    found: dict[str, reader.VistasSet], split: str, tables: Path, cfg: config.Data
) -> Iterator[tuple[str, str, reader.Scene | reader.Problem]]:
    """Pictures of a split with their sources and the names of their files, by source and key."""
    path = tables / f"{cfg.split_file}.csv"
    listed = _listed(path) if cfg.splits is config.Splits.file else {}
    seen = set()
    for source, vistas in found.items():
        for scene in reader.scenes(vistas, split if cfg.splits is config.Splits.folders else ""):
            name = scene.key if len(found) == 1 else f"{source}_{scene.key}"
            seen.add(name)
            chosen = split
            if cfg.splits is config.Splits.file:
                if name not in listed:
                    hint = names.hint(name, listed)
                    raise ValueError(
                        f"{path}: no line for {name!r}{hint}; add one, with nothing after the comma to leave it out"
                    )
                chosen = listed[name]
            elif cfg.splits is config.Splits.fraction:
                # By the key alone, so that a picture stays where it is when others come.
                digest = hashlib.sha256(f"{cfg.split_seed}/{source}/{scene.key}".encode()).digest()
                chosen = "val" if int.from_bytes(digest[:8]) < cfg.val_fraction * 2**64 else "train"
            if chosen == split:
                yield source, name, scene
    if unknown := sorted(listed.keys() - seen):
        stem = Path(unknown[0]).stem
        hint = f" (write {stem!r}, without suffix)" if stem in seen else names.hint(unknown[0], seen)
        raise ValueError(f"{path}: {len(unknown)} lines name no picture, such as {unknown[0]!r}{hint}; delete them")


def _listed(path: Path) -> dict[str, str]:
    """Name -> split of a file of lines `name,split`; raises ValueError naming the line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; write it, or set data.split_file and data.splits in conf/data")
    result: dict[str, str] = {}
    for line in text.read_csv(path):
        where, cells = f"{path}:{line.number}", line.cells
        name = reader.composed(cells[0]) if cells else ""
        if len(cells) != 2 or cells[1] not in (*reader.SPLITS, "") or name in result or not name:
            expected = "a new name and train, val or nothing"
            raise ValueError(f"{where}: found {cells}, expected {expected}; mend the line")
        if "/" in name or name == "..":
            raise ValueError(f"{where}: {name!r} is a path, expected a picture's name without suffix; mend it")
        result[name] = cells[1]
    return result


def _split(
    work: list[Work],
    plan: picture.Plan,
    split: str,
    categories: list[dict[str, Any]],
    masks: dict[str, plausibility.Masks],
    cfg: config.Data,
) -> Statistics:
    """Convert what is not done yet, and write the split's files. `masks` are of each source, without any yet."""
    journal, counted = plan.folder / RECORDS, Statistics(categories)
    done = _resume(journal, _fingerprint(work, plan, categories))
    for name in ("panoptic", "semantic"):
        (plan.folder / name).mkdir(exist_ok=True)
    if done:
        log.info("%s: %d of %d pictures are there from a run that was interrupted", split, done, len(work))
    workers = parallel.count(cfg.workers, len(work) - done)
    convert = functools.partial(_try, plan=plan, skip=cfg.on_error is config.OnError.skip)
    records = _records(journal, parallel.ordered(convert, work[done:], workers, split, done))
    _write_split(_seen(records, masks), plan, categories, counted)
    for source, problem in ((source, found.problem()) for source, found in masks.items()):
        if problem and cfg.check_masks is config.CheckMasks.fail:
            raise ValueError(f"{split} of source {source}: {problem}")
        if problem:
            log.warning("%s of source %s: %s", split, source, problem)
    if counted.skipped and cfg.on_error is not config.OnError.skip:
        # Of a run that was told to skip.
        raise ValueError(counted.skipped[0])
    if len(counted.skipped) > cfg.max_skipped:
        found = f"{len(counted.skipped)} pictures can't be converted, at most {cfg.max_skipped} may be"
        raise ValueError(f"{split}: {found} (data.max_skipped): {'; '.join(counted.skipped[:3])}")
    if not counted.summary()["images"]:
        raise ValueError(
            f"{split}: no picture is left of {len(work)}, {len(counted.empty)} without a segment of any class; see "
            "data.splits, and the taxonomies of data.sources"
        )
    for message in (*counted.empty, *counted.skipped):
        log.warning("%s: %s", split, message)
    return counted


def _records(journal: Path, new: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The journal's records, then new ones, which are added to it."""
    with journal.open(encoding="utf-8") as lines:
        next(lines)
        yield from map(json.loads, lines)
    with journal.open("a", encoding="utf-8") as lines:
        for record in new:
            lines.write(json.dumps(record, separators=(",", ":")) + "\n")
            lines.flush()
            yield record


def _seen(records: Iterable[dict[str, Any]], masks: dict[str, plausibility.Masks]) -> Iterator[dict[str, Any]]:
    """The records, whose masks are added to their source's."""
    for record in records:
        if mask := record.pop("mask", None):
            masks[mask["source"]].add(mask["file"], *mask["values"])
        yield record


def _try(work: Work, plan: picture.Plan, skip: bool) -> dict[str, Any]:
    """The record of a picture, or of why there is none: `skipped` or `empty`."""
    try:
        if isinstance(work, reader.Problem):
            raise ValueError(work.message)
        mask = {"source": work.source, "file": str(work.scene.instances)}
        try:
            record = picture.convert(work, plan)
            record["mask"] = {**mask, "values": record.pop("values")}
            return record
        except picture.EmptyError as empty:
            return {"empty": str(empty), "mask": {**mask, "values": empty.values}}
    except ValueError as error:
        if not skip:
            raise
        return {"skipped": str(error)}


def _fingerprint(work: list[Work], plan: picture.Plan, categories: list[dict[str, Any]]) -> str:
    """Of all that the records depend on: code, parameters, classes, and each file's size and time of change."""
    digest = hashlib.sha256(f"{json.dumps(categories)} {plan}".encode())
    for module in (picture, png, reader, readers, rle, files, panoptic_ids, picture_files):
        digest.update(Path(str(module.__file__)).read_bytes())
    for item in work:
        digest.update(repr(item).encode())
        scene = item.scene if isinstance(item, picture.Task) else None
        for path in filter(None, (scene.image, scene.instances, scene.panoptic) if scene else ()):
            about = path.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def _resume(journal: Path, fingerprint: str) -> int:
    """How many records of the same work are there. A half-written one is removed, and a split of other work."""
    head = json.dumps({"work": fingerprint}).encode() + b"\n"
    if journal.exists():
        with journal.open("rb") as lines:
            if next(lines, b"") == head:
                whole = [len(line) for line in lines if line.endswith(b"\n")]
                os.truncate(journal, len(head) + sum(whole))
                return len(whole)
    # First of all, so that no journal tells of files that are gone.
    journal.unlink(missing_ok=True)
    if journal.parent.exists():
        shutil.rmtree(journal.parent)
    journal.parent.mkdir()
    journal.write_bytes(head)
    return 0


def _write_split(
    records: Iterable[dict[str, Any]], plan: picture.Plan, categories: list[dict[str, Any]], counted: Statistics
) -> None:
    """The split's JSON files, one picture in memory at a time."""
    image_id = annotation_id = 0
    info = panoptic.IMAGES if plan.bare_file_names else {}
    root = Path(info.get("image_folder", ""))
    with (
        CocoJson(plan.folder / "panoptic.json", categories, info) as segments,
        CocoJson(plan.folder / "instances.json", categories, info) as instances,
        (plan.folder / "semantic.jsonl").open("w", encoding="utf-8") as semantic,
    ):
        for record in records:
            if "segments" not in record:
                counted.leave_out(record)
                continue
            counted.add(record)
            image_id += 1
            image = {"id": image_id, **record["image"]}
            for segment in record["segments"]:
                if (runs := segment.pop("segmentation", None)) is not None:
                    annotation_id += 1
                    about = {"id": annotation_id, "image_id": image_id, "segmentation": runs}
                    instances.annotations.add({**segment, **about})
            annotation = {"image_id": image_id, "file_name": record["name"], "segments_info": record["segments"]}
            segments.annotations.add(annotation)
            for written in (segments, instances):
                written.images.add(image)
            # TAO joins these with dataset.*.root_dir, which is this folder.
            line = {"img": (root / image["file_name"]).as_posix(), "segm": f"semantic/{record['name']}"}
            semantic.write(json.dumps(line) + "\n")


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder that the sources' folders are in")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables that data names, conf/tables")
    parser.add_argument("--out", type=Path, required=True, help="folder for the COCO files")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the counts")
    choices = [choice.value for choice in config.OnError]
    parser.add_argument("--on-error", choices=choices, help="what becomes of a picture that can't be converted")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cfg = config.load().data
    if args.on_error:
        cfg.on_error = config.OnError(args.on_error)
    try:
        build(args.root, args.out, args.metrics, args.tables, cfg)
    except (OSError, ValueError, RuntimeError) as error:
        # What the system says, such as a full disk, names no mend and, of a file that is open, no place.
        if isinstance(error, OSError) and error.errno:
            place = "" if error.filename else f"{args.out}: "
            parser.exit(1, f"{place}{error}; mend that and run it again: it goes on where it was\n")
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
