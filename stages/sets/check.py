"""Checks a data set of any format before it is used: counts pictures and classes, and lists problems."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from stages import config
from stages.config import Format
from stages.sets import formats
from stages.sets.raw_set import Problem, RawSet, Scene
from stages.vistas import check
from stages.vistas.reader import SPLITS

MASKS_PER_SPLIT = 64
"""Annotations of each split that are decoded, spread evenly."""


def check_set(folder: Path, source: config.Source) -> tuple[list[str], list[str]]:
    """Check the set in a folder in each format that it has, or in that of `source`; return findings and problems.

    A finding is a line for each format or version. Raises FileNotFoundError or ValueError as formats.find does.
    """
    found = [source.format] if source.format is not Format.auto else formats.found_in(folder)
    findings, problems = list[str](), list[str]()
    for one in found or [Format.vistas]:
        lines, wrong = _vistas(folder, source) if one is Format.vistas else _other(folder, source, one)
        findings += lines
        problems += wrong
    if len(found) > 1:
        findings.append(f"several formats: set data.sources.NAME.format to one of {', '.join(x.value for x in found)}")
    return findings, problems


def _vistas(folder: Path, source: config.Source) -> tuple[list[str], list[str]]:
    lines, problems = [], list[str]()
    for report in check.check(folder, source.config):
        counts = ", ".join(f"{name} {number}" for name, number in sorted(report.pictures.items()))
        lines.append(
            f"{report.version}: {counts} pictures; {report.labels} labels in {report.config.name}, evaluated: "
            f"{report.evaluated_things} things, {report.evaluated_stuff} stuff; {len(report.problems)} problems"
        )
        problems += report.problems
    return lines, problems


def _other(folder: Path, source: config.Source, chosen: Format) -> tuple[list[str], list[str]]:
    raw = formats.find(config.Source(format=chosen, config=source.config), folder, "data.sources.NAME")
    found = {split: pictures for split in SPLITS if (pictures := _pictures(raw, split)) is not None}
    if not found:
        found = {"": list(raw.scenes())}  # A set without splits; raises with its message if it has no pictures.
    counts, problems = dict[str, int](), list[str]()
    for split, pictures in found.items():
        problems += [scene.message for scene in pictures if isinstance(scene, Problem)]
        usable = [scene for scene in pictures if isinstance(scene, Scene)]
        counts[split or "in all"] = len(usable)
        problems += _decoding_problems(raw, split or "the set", usable)
    evaluated = [label for label in raw.labels if label.evaluate]
    things = sum(label.instances for label in evaluated)
    shown = ", ".join(f"{split} {count}" for split, count in counts.items())
    without = ", ".join(split for split in SPLITS if split not in counts)
    none = f" (no {without}: set data.splits to fraction or file)" if without else ""
    line = (
        f"{raw.format.value}: {shown} pictures{none}; {len(raw.labels)} labels, evaluated: {things} things, "
        f"{len(evaluated) - things} stuff; {len(problems)} problems"
    )
    return [line], problems


def _pictures(raw: RawSet, split: str) -> list[Scene | Problem] | None:
    """Return the pictures of a split, or None if the set has no such split."""
    try:
        return list(raw.scenes(split))
    except FileNotFoundError:
        return None


def _decoding_problems(raw: RawSet, split: str, scenes: list[Scene]) -> Iterator[str]:
    """Yield the problems of a split's annotations. MASKS_PER_SPLIT of them are decoded."""
    step = max(1, len(scenes) / MASKS_PER_SPLIT)
    chosen = [scenes[int(i * step)] for i in range(min(len(scenes), MASKS_PER_SPLIT))]
    for scene in tqdm(chosen, desc=f"annotations of {split}", unit="picture", disable=None):
        try:
            raw.raster(scene)
        except ValueError as error:
            yield str(error)
