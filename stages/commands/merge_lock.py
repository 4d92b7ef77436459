"""merge_lock: resolve the conflict of dvc.lock and data/metrics in a merge, rebase or cherry-pick, stage by stage.

Run by `make merge-lock` when the other conflicts are resolved. Each entry of dvc.lock is taken whole from the side that
was built from the merged code, parameters and inputs; a stage that neither side built so has no entry and runs again.
Metrics follow their stages. Both are added to the index.
"""

import hashlib
from pathlib import Path

from stages.foundation import command_line, files, git
from stages.review import lock, lock_merge, staleness

SIDES = (":2", ":3")
"""Versions of ours and of theirs of a file in conflict, as git names them in the index. ":1" is the common base."""
HEADS = ("MERGE_HEAD", "REBASE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")
"""Git's names of the commit that is being merged."""


def check(conflicts: list[str], resolvable: set[str]) -> None:
    """Raise ValueError where none of the paths in conflict is `resolvable` here, or others are in conflict too."""
    if not resolvable.intersection(conflicts):
        raise ValueError(
            f"{lock.NAME} is not in conflict; run this when `git merge`, `git rebase` or `git cherry-pick` stops at it "
            f"(`git checkout --merge {lock.NAME}` brings a resolved conflict back)"
        )
    refuse([path for path in conflicts if path not in resolvable])


def refuse(others: list[str]) -> None:
    """Raise ValueError where other files are in conflict."""
    if others:
        raise ValueError(
            f"in conflict too: {', '.join(map(files.printable, others[:5]))}{', ...' if others[5:] else ''}; resolve "
            "and `git add` that first (params.yaml by `make params`), since it decides which side of dvc.lock fits"
        )


def versions(root: Path, conflicts: list[str]) -> list[lock.Entries]:
    """Return dvc.lock of the common base, of ours and of theirs; all are the same where it is not in conflict."""
    if lock.NAME not in conflicts:
        return [lock.read(root)] * 3
    return [lock.parse(git.show(root, each, lock.NAME), f"{each}:{lock.NAME} in the index") for each in (":1", *SIDES)]


def follow(root: Path, path: str, md5: str | None, conflicts: list[str], head: str | None) -> bool:
    """Bring an output that git tracks to the version with this hash; return whether one of both sides has it.

    md5: None where the stage has no entry, as it runs again. A file in conflict then becomes our version, or theirs
    where we have none.
    """
    found = [git.show(root, revision, path) for revision in (":0", *SIDES, "HEAD", *([head] if head else []))]
    by_hash = {hashlib.md5(each, usedforsecurity=False).hexdigest(): each for each in found if each is not None}
    if path not in conflicts and md5 in (None, next(iter(by_hash), None)):
        return True
    chosen = by_hash.get(md5 or "", next(iter(by_hash.values()), None))
    if chosen is not None:
        with files.atomic_write(root / path) as draft:
            draft.write_bytes(chosen)
        git.run(root, "add", "--", path)
    return md5 is None or md5 in by_hash


def build(root: Path) -> str:
    """Merge dvc.lock and the metrics in `root`, add them to the index, and return a text of what was taken.

    Raises ValueError where there is no conflict of dvc.lock or where other files are in conflict. Nothing is written
    then.
    """
    conflicts = git.unmerged(root)
    # Without them DVC can't tell the stages.
    refuse([path for path in conflicts if path in ("dvc.yaml", "params.yaml")])
    with staleness.opened(root) as pipeline:
        tracked = pipeline.in_git()
        check(conflicts, {lock.NAME, *(path for paths in tracked.values() for path in paths)})
        base, ours, theirs = versions(root, conflicts)
        evidence = (ours, theirs, base)
        merged = lock_merge.merge(
            base,
            ours,
            theirs,
            pipeline.order,
            lambda name, entries: pipeline.reasons(name, entries, evidence, metrics=False)[0],
        )
        head = next((name for name in HEADS if git.commit(root, name)), None)
        lock.write(root, merged.entries)
        git.run(root, "add", "--", lock.NAME)
        lost = []
        for name, paths in tracked.items():
            recorded = lock.outs(merged.entries.get(name, {}))
            lost += [p for p in paths if not follow(root, p, lock.digest(recorded.get(p)), conflicts, head)]
        state = pipeline.state(merged.entries, evidence)
    return text(merged, state, lost, len(pipeline.order))


def text(merged: lock_merge.Merged, state: staleness.State, lost: list[str], total: int) -> str:
    """Return what was taken of which side, and what runs next."""
    rows = [(name, side) for name, side in merged.sides.items()]
    for name, misfits in merged.dropped.items():
        whys = [f"{side}: {'; '.join(map(str, reasons))}" for side, reasons in misfits.items()]
        rows.append((name, f"dropped, {' | '.join(whys) or 'as one side did'}"))
    rows += [(name, "removed, not in dvc.yaml") for name in merged.removed]
    rows += [(path, "no side has the version that dvc.lock records; its stage runs again") for path in lost]
    same = total - len(merged.sides) - len(merged.dropped)
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"{name:{width}}  {what}" for name, what in rows]
    lines.append(f"{same} of {total} stages are the same on both sides")
    due = ", ".join(state.stale) or "nothing"
    lines.append(f"dvc.lock and data/metrics are merged and added. `make all` will run: {due}")
    if state.elsewhere:
        lines.append(f"to be run on machines of their own: {', '.join(state.elsewhere)}")
    lines.append("next: make pull (the outputs of theirs), make all, git add dvc.lock data/metrics, then end the merge")
    return "\n".join(lines)


def main() -> None:
    """Command line of `make merge-lock`."""
    command_line.parser(__doc__).parse_args()
    print(build(Path()))


if __name__ == "__main__":
    command_line.run(main)
