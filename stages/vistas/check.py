"""What a set in Vistas layout holds, and what is wrong with it, before anything is converted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages import config
from stages.coco import rle
from stages.foundation import text
from stages.vistas import labels, plausibility, reader

LOOKED_AT = 64
"""Masks that are read of each folder; a mask of Vistas takes a tenth of a second."""


@dataclass(frozen=True)
class Report:
    """Of one version of a set."""

    version: str
    config: Path
    labels: int
    evaluated_things: int
    evaluated_stuff: int
    pictures: dict[str, int]
    """Folder -> pictures with a mask."""
    problems: list[str]


def check(folder: Path, name: str = "") -> list[Report]:
    """A report for each version in a folder, of its config `name` if given.

    Raises as reader.find for none; where configs can't be read, with the problems of all.
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


def _check(found: reader.VistasSet) -> Report:
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
    things = sum(label.instances for label in evaluated)
    counts = len(found.labels), things, len(evaluated) - things
    return Report(found.version, found.config, *counts, pictures, problems)


def _mask_problems(folder: str, scenes: list[reader.Scene], found: reader.VistasSet) -> Iterator[str]:
    """What is wrong with the masks of a folder, of which LOOKED_AT are read, evenly over the folder."""
    masks = plausibility.Masks(found.labels)
    step = max(1, len(scenes) / LOOKED_AT)
    chosen = [scenes[int(i * step)] for i in range(min(len(scenes), LOOKED_AT))]
    for scene in tqdm(chosen, desc=f"masks of {folder}", unit="mask", disable=None):
        try:
            # A label beyond the config's is told once for all masks.
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
    """What is wrong with a set's own COCO panoptic JSON, a line each; convert does not read it, other tools do."""
    try:
        content = text.read_json(path)
    except ValueError as error:
        yield str(error)
        return
    kinds = {"images": ("id", "file_name"), "annotations": ("image_id", "file_name", "segments_info")}
    shape = [*_shape(path, content, kinds)]
    yield from shape or _problems(path, content)


def _shape(path: Path, content: Any, lists: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Where an object lacks one of the lists, or one of their entries a key."""
    expected = "restore the file, or delete it: convert does not need it"
    for name, keys in lists.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            yield f"{path}: no COCO panoptic JSON: no list {name!r}; {expected}"
            continue
        for i, entry in enumerate(entries):
            lacks = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacks:
                yield f"{path}: no COCO panoptic JSON: {name}[{i}] lacks {', '.join(lacks)}; {expected}"
            elif "segments_info" in keys:
                yield from _shape_of_segments(f"{path}: no COCO panoptic JSON: {name}[{i}]", entry["segments_info"])


def _shape_of_segments(where: str, segments: Any) -> Iterator[str]:
    if not isinstance(segments, list):
        yield f"{where}: segments_info is no list; restore the file, or delete it: convert does not need it"
        return
    for i, segment in enumerate(segments):
        area = segment.get("area", 1) if isinstance(segment, dict) else None
        if area is None or "id" not in segment or type(area) not in (int, float):
            yield f"{where}: segments_info[{i}] has no id or an area that is no number; restore the file"


def _problems(path: Path, content: Any) -> Iterator[str]:
    images, annotations = content["images"], content["annotations"]
    ids = [image["id"] for image in images] + [annotation["image_id"] for annotation in annotations]
    if len(kinds := {type(image_id).__name__ for image_id in ids}) > 1:
        yield f"{path}: image ids are {' and '.join(sorted(kinds))}, expected one kind; write the ids anew"
    for entry in (*images, *annotations):
        if _leaves(entry["file_name"]):
            yield f"{path}: file_name {entry['file_name']!r} leaves the folder; give the name alone"
    for annotation in annotations:
        seen = set()
        for segment in annotation["segments_info"]:
            if segment["id"] in seen:
                yield f"{path}: segment {segment['id']} stands twice in {annotation['file_name']}; write the ids anew"
            seen.add(segment["id"])
            # Also where it is NaN.
            if not segment.get("area", 1) > 0:
                name = annotation["file_name"]
                yield f"{path}: segment {segment['id']} of {name} has no pixel; delete it from segments_info"


def _leaves(name: Any) -> bool:
    return not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts
