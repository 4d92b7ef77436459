"""Checks a set in Vistas layout before it is used: counts its pictures and labels, and lists its problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages import config
from stages.coco import rle
from stages.foundation import files, text
from stages.vistas import labels, plausibility, reader

MASKS_PER_FOLDER = 64
"""Masks of each folder that are read. A mask of Vistas takes a tenth of a second."""


@dataclass(frozen=True)
class Findings:
    """Contents and problems of one version of a set."""

    version: str
    """v1.2, v2.0 or flat."""
    config: Path
    labels: int
    """Number of labels in the config."""
    evaluated_things: int
    """Number of thing labels that the config evaluates."""
    evaluated_stuff: int
    pictures: dict[str, int]
    """Folder -> number of pictures with a mask."""
    problems: list[str]
    """One line each."""


def check(folder: Path, name: str = "") -> list[Findings]:
    """Check each version of the set in a folder. `name` is the name of its config file, if it is not Vistas' own.

    Raises FileNotFoundError or ValueError as reader.find does. If configs can't be read, the message has the problems
    of all of them.
    """
    found, problems = list[reader.VistasSet](), list[str]()
    for version in reader.versions(folder) or [""]:
        try:
            found.append(reader.find(config.Source(version=version, config=name), folder, "data.sources.NAME"))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    return [_check(one) for one in found]


def _check(found: reader.VistasSet) -> Findings:
    by_folder: dict[str, list[reader.Scene]] = {}
    problems = []
    for scene in reader.scenes(found):
        if isinstance(scene, reader.Problem):
            problems.append(scene.message)
        else:
            by_folder.setdefault(str(scene.image.parents[1].relative_to(found.root)), []).append(scene)
    for folder, scenes in by_folder.items():
        problems += _mask_problems(folder, scenes, found)
    pictures = {folder: len(scenes) for folder, scenes in by_folder.items()}
    for path in sorted(
        {p for f in found.folders() for p in (found.instances(f).parent / "panoptic").glob("[!.]*.json")}
    ):
        problems += panoptic_problems(path)
    evaluated = [label for label in found.labels if label.evaluate]
    if not evaluated:
        step = "set it to true for the classes to learn"
        problems.append(f"{found.config}: evaluate is false for all {len(found.labels)} labels; {step}")
    things = sum(label.instances for label in evaluated)
    counts = len(found.labels), things, len(evaluated) - things
    return Findings(found.version, found.config, *counts, pictures, problems)


def _mask_problems(folder: str, scenes: list[reader.Scene], found: reader.VistasSet) -> Iterator[str]:
    """Yield the problems of a folder's masks. MASKS_PER_FOLDER of them are read, spread evenly over the folder."""
    masks = plausibility.MaskStatistics(found.labels)
    step = max(1, len(scenes) / MASKS_PER_FOLDER)
    chosen = [scenes[int(i * step)] for i in range(min(len(scenes), MASKS_PER_FOLDER))]
    for scene in tqdm(chosen, desc=f"masks of {folder}", unit="mask", disable=None):
        try:
            # Any label is accepted here: `masks` reports labels beyond the config's once for all masks.
            mask = reader.instances(scene.instances, labels.MAX_LABELS)
        except ValueError as error:
            yield str(error)
        else:
            pixels = rle.runs(mask).pixels()
            values = np.flatnonzero(pixels)
            masks.add(str(scene.instances), values, pixels[values])
    if problem := masks.problem():
        yield f"{found.root / folder}: {problem}"


def panoptic_problems(path: Path) -> Iterator[str]:
    """Yield the problems of a set's own COCO panoptic JSON, a line each. convert does not read it; other tools do."""
    try:
        content = text.read_json(path)
    except ValueError as error:
        yield str(error)
        return
    keys = {"images": ("id", "file_name"), "annotations": ("image_id", "file_name", "segments_info")}
    structure = [*_structure_problems(path, content, keys)]
    yield from structure or _content_problems(path, content)


_RESTORE = "restore the file, or delete it: convert does not need it"


def _structure_problems(path: Path, content: object, lists: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield where the JSON lacks one of the lists, or an entry of a list lacks one of its keys."""
    for name, keys in lists.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            yield f"{path}: not a COCO panoptic JSON: no list {name!r}; {_RESTORE}"
            continue
        for i, entry in enumerate(entries):
            where = f"{path}: not a COCO panoptic JSON: {name}[{i}]"
            lacks = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacks:
                yield f"{where} lacks {', '.join(lacks)}; {_RESTORE}"
            elif "segments_info" in keys:
                yield from _segment_structure_problems(where, entry["segments_info"])


def _segment_structure_problems(where: str, segments: object) -> Iterator[str]:
    if not isinstance(segments, list):
        yield f"{where}: segments_info is not a list; {_RESTORE}"
        return
    for i, segment in enumerate(segments):
        area = segment.get("area", 1) if isinstance(segment, dict) else None
        if area is None or "id" not in segment or type(area) not in (int, float):
            yield f"{where}: segments_info[{i}] has no id, or an area that is not a number; {_RESTORE}"


def _content_problems(path: Path, content: files.Json) -> Iterator[str]:
    images, annotations = content["images"], content["annotations"]
    ids = [image["id"] for image in images] + [annotation["image_id"] for annotation in annotations]
    if len(types := {type(image_id).__name__ for image_id in ids}) > 1:
        yield f"{path}: image ids are {' and '.join(sorted(types))}, expected one type; correct the ids"
    for entry in (*images, *annotations):
        if _points_outside(entry["file_name"]):
            yield f"{path}: file_name {entry['file_name']!r} points outside the folder; write the bare file name"
    for annotation in annotations:
        name, seen = annotation["file_name"], set()
        for segment in annotation["segments_info"]:
            if segment["id"] in seen:
                yield f"{path}: segment {segment['id']} occurs twice in {name}; make the ids unique"
            seen.add(segment["id"])
            # Written so that NaN is a problem too.
            if not segment.get("area", 1) > 0:
                yield f"{path}: segment {segment['id']} of {name} has no pixel; delete it from segments_info"


def _points_outside(name: object) -> bool:
    return not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts
