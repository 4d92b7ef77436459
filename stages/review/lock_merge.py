"""Merges two versions of dvc.lock, stage by stage. An entry is taken whole from one side, and never mixed of both."""

from collections.abc import Callable
from dataclasses import dataclass, field

from stages.review import lock
from stages.review.staleness import Reason

OURS, THEIRS = "ours", "theirs"

Judge = Callable[[str, lock.Entries], list[Reason]]
"""(stage, lock with its entry and those before it) -> why the entry is stale by itself."""


@dataclass
class Merged:
    """The merged lock, and where its entries come from."""

    entries: dict[str, lock.Entry] = field(default_factory=dict)
    sides: dict[str, str] = field(default_factory=dict)
    """Stage -> OURS or THEIRS, where the versions differ and one was taken."""
    dropped: dict[str, dict[str, list[Reason]]] = field(default_factory=dict)
    """Stage without an entry -> side -> why its entry doesn't fit. Empty where a side had removed it."""
    removed: list[str] = field(default_factory=list)
    """Stages that dvc.yaml no longer has."""


def merge(base: lock.Entries, ours: lock.Entries, theirs: lock.Entries, order: list[str], judge: Judge) -> Merged:
    """Merge two locks with their common base.

    A stage that only one side changed is taken from it. Of a stage that both changed the entry is taken whose command,
    code, parameters and inputs are those of the merged workspace, ours where both are. If neither is, the stage has no
    entry and runs again.

    order: the stages of the merged dvc.yaml, each after those that it depends on.
    """
    merged = Merged()
    merged.removed = [name for name in {**base, **ours, **theirs} if name not in order]
    for name in order:
        one, other, former = ours.get(name), theirs.get(name), base.get(name)
        if one == other:
            if one is not None:
                merged.entries[name] = one
            continue
        if former in (one, other):
            side, entry = (THEIRS, other) if one == former else (OURS, one)
            if entry is None:
                merged.dropped[name] = {}
            else:
                merged.entries[name], merged.sides[name] = entry, side
            continue
        misfits: dict[str, list[Reason]] = {}
        for side, entry in ((OURS, one), (THEIRS, other)):
            if entry is None:
                misfits[side] = [Reason("new")]
                continue
            misfits[side] = judge(name, {**merged.entries, name: entry})
            if not misfits[side]:
                merged.entries[name], merged.sides[name] = entry, side
                break
        else:
            merged.dropped[name] = misfits
    # Known stages in the order of ours, as DVC keeps it.
    merged.entries = {name: merged.entries[name] for name in {**ours, **theirs} if name in merged.entries}
    return merged
