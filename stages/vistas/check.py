"""What a set in Vistas layout holds, and what is wrong with it, before anything is converted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files
from stages.vistas import reader


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
    """A report for each version in a folder, of its config `name` if given. Raises as reader.find for none."""
    versions = reader.versions(folder) or [""]
    return [_check(reader.find(config.Source(version=v, config=name), folder, "data.sources.NAME")) for v in versions]


def _check(found: reader.VistasSet) -> Report:
    pictures: dict[str, int] = {}
    problems = []
    for scene in reader.scenes(found):
        if isinstance(scene, reader.Problem):
            problems.append(scene.message)
            continue
        folder = str(scene.image.parents[1].relative_to(found.root))
        # One of each folder is read: a wrong version or kind of PNG is wrong in all.
        if folder not in pictures:
            try:
                reader.instances(scene.instances, len(found.labels))
            except ValueError as error:
                problems.append(str(error))
        pictures[folder] = pictures.get(folder, 0) + 1
    for path in sorted({p for f in found.folders() for p in (found.instances(f).parent / "panoptic").glob("*.json")}):
        problems += panoptic_problems(path)
    evaluated = [label for label in found.labels if label.evaluate]
    things = sum(label.instances for label in evaluated)
    counts = len(found.labels), things, len(evaluated) - things
    return Report(found.version, found.config, *counts, pictures, problems)


def panoptic_problems(path: Path) -> Iterator[str]:
    """What is wrong with a set's own COCO panoptic JSON, a line each; convert does not read it, other tools do."""
    try:
        yield from _problems(path, files.read_json(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{path}: no COCO panoptic JSON ({error!r}); restore the file"


def _problems(path: Path, content: Any) -> Iterator[str]:
    images, annotations = content["images"], content["annotations"]
    ids = [image["id"] for image in images] + [annotation["image_id"] for annotation in annotations]
    if len(kinds := {type(image_id).__name__ for image_id in ids}) > 1:
        yield f"{path}: image ids are {' and '.join(sorted(kinds))}, expected one kind; write the ids anew"
    for entry in (*images, *annotations):
        if _leaves(entry["file_name"]):
            yield f"{path}: file_name {entry['file_name']!r} leaves the folder; give the name alone"
    for annotation in annotations:
        for segment in annotation["segments_info"]:
            if segment.get("area", 1) <= 0:
                name = annotation["file_name"]
                yield f"{path}: segment {segment['id']} of {name} has no pixel; delete it from segments_info"


def _leaves(name: Any) -> bool:
    return not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts
