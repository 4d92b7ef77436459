"""diff: what the workspace changes against a commit, as Markdown for a review: parameters, stages, metrics.

Run by `make diff [BASE=origin/main]`. It compares with the last common commit, as a pull request does. Needs no data.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from stages.commands import params
from stages.foundation import command_line, files, git
from stages.metrics import metric_files
from stages.review import figures, lock, markdown, staleness

PARAMETERS, STAGES, METRICS = 10, 12, 12
"""Rows that are shown of each section. Others are folded into one line, so that the text stays below 60 lines."""


def merge_base(root: Path, base: str) -> str:
    """Return the last common commit of HEAD and `base`. Raises ValueError where `base` is not known here."""
    if git.commit(root, "HEAD") is None:
        raise ValueError("no commit is here to compare with; run this in a git repository with commits")
    if git.commit(root, base) is None:
        remote, _, branch = base.partition("/")
        fix = f"git fetch {remote} {branch}" if branch else "git fetch --all"
        raise ValueError(f"BASE: {files.printable(base)} is no commit here; run `{fix}`, or name another: BASE=...")
    try:
        return git.text(root, "merge-base", base, "HEAD")
    except RuntimeError as error:
        fix = "git fetch --unshallow"
        raise ValueError(f"BASE: {files.printable(base)} and HEAD have no common commit here; run `{fix}`") from error


def text(root: Path, base: str) -> str:
    """Return the Markdown. Raises ValueError for an unknown base, or files that can't be read."""
    commit = merge_base(root, base)
    old = lock.parse_params(git.show(root, commit, "params.yaml"), f"params.yaml of {base}")
    new = lock.params_of(root / "params.yaml")
    entries = lock.read(root)
    former = lock.parse(git.show(root, commit, lock.NAME), f"{lock.NAME} of {base}")
    with staleness.opened(root) as pipeline:
        state, order, code = pipeline.state(entries), pipeline.order, pipeline.code()
    found = [f"### Changes since {markdown.code(base)} ({commit[:10]})", ""]
    code.append("dvc.yaml")
    edited = git.entries(root, "diff", "--name-only", "-z", "--relative", commit, "--", *code)
    edited += git.entries(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *code)
    found += parameters(root, old, new, sorted(set(edited)))
    found += stages(order, former, entries, state)
    found += metrics(root, commit, new)
    return "\n".join(found)


def parameters(root: Path, old: dict[str, Any], new: dict[str, Any], edited: list[str]) -> list[str]:
    """Return the section of parameters. edited: files of code that differ."""
    keys = lock.changed_keys(old, new)
    if not keys:
        if not edited:
            return ["**No parameter and no code of a stage changed.**", ""]
        listed = [markdown.code(path) for path in edited]
        head = ["**No parameter changed: code only.** " + ", ".join(listed[:6])]
        return [*head, *markdown.folded(listed[6:], "more files"), ""]
    before, after = lock.flat(old), lock.flat(new)
    rows = {key: (markdown.code(key), _value(before, key), _value(after, key)) for key in keys}
    switched: set[str] = set()
    if old.get("profile") != new.get("profile") and old and new:
        switched = keys_of_profiles(root, str(old.get("profile")), str(new.get("profile")), before, after, keys) - {
            "profile"
        }
    own = [row for key, row in rows.items() if key not in switched]
    found = [f"**Parameters**: {len(keys)} changed"]
    if switched:
        found[0] += f", {len(switched)} of them by the profile"
    found += ["", *markdown.table(("parameter", "before", "after"), own, PARAMETERS, "more parameters")]
    if switched:
        listed = [f"{rows[key][0]} {rows[key][1]} → {rows[key][2]}" for key in keys if key in switched]
        found += markdown.folded(listed, "parameters of the profile")
    code = [markdown.code(path) for path in edited]
    return [
        *found,
        "",
        *([f"Code changed too: {', '.join(code[:6])}{', ...' if code[6:] else ''}", ""] if code else []),
    ]


def keys_of_profiles(
    root: Path, old: str, new: str, before: dict[str, Any], after: dict[str, Any], keys: list[str]
) -> set[str]:
    """Return the keys whose values are those of the two profiles; all keys where conf/ doesn't have both profiles."""
    with tempfile.TemporaryDirectory() as folder:
        composed: list[dict[str, Any]] = []
        for name in (old, new):
            out = Path(folder) / f"{len(composed)}.yaml"
            try:
                params.build(root / "conf", out, [f"profile='{name}'"])
            except (ValueError, OSError):
                return set(keys)
            composed.append(lock.flat(lock.params_of(out)))
    absent = object()
    return {
        key
        for key in keys
        if before.get(key, absent) == composed[0].get(key, absent)
        and after.get(key, absent) == composed[1].get(key, absent)
    }


def stages(order: list[str], former: lock.Entries, entries: lock.Entries, state: staleness.State) -> list[str]:
    """Return the section of stages: those that will run again, and those that ran since the base."""
    rows = []
    for name in order:
        reasons = state.stale.get(name) or state.elsewhere.get(name)
        if reasons:
            what = "will run" if name in state.stale else "to be run on its machine"
            rows.append((name, what, markdown.code("; ".join(map(str, reasons)), 200)))
        elif entries.get(name) != former.get(name):
            rows.append((name, "ran", markdown.code(ran(former.get(name), entries[name]), 200)))
    gone = [name for name in former if name not in order]
    rows += [(name, "removed", "") for name in gone]
    due = len(state.stale)
    head = f"**Stages**: `make all` will run {due} of {len(order)}" if due else "**Stages**: dvc.lock is up to date"
    if not rows:
        return [f"{head}, and none ran since.", ""]
    return [head, "", *markdown.table(("stage", "", "why"), rows, STAGES, "more stages"), ""]


def ran(before: lock.Entry | None, after: lock.Entry) -> str:
    """Return what differs between the entries of a stage in two locks."""
    if before is None:
        return "new"
    whys = [] if before.get("cmd") == after.get("cmd") else ["command"]
    old, new = lock.params(before), lock.params(after)
    keys = lock.changed_keys(old, new)
    if keys:
        whys.append(str(staleness.Reason("parameters", tuple(staleness.value_change(key, old, new) for key in keys))))
    for kind, items in (("inputs", lock.deps), ("outputs", lock.outs)):
        one, other = items(before), items(after)
        names = [path for path in {**other, **one} if lock.digest(one.get(path)) != lock.digest(other.get(path))]
        if names:
            whys.append(str(staleness.Reason(kind, tuple(names))))
        elif kind == "outputs":
            whys.append("same outputs")
    return "; ".join(whys)


def metrics(root: Path, commit: str, new: dict[str, Any]) -> list[str]:
    """Return the section of metrics: figures that changed, with direction, unit and limit."""
    listed = git.entries(root, "ls-tree", "--name-only", "-z", commit, "data/metrics/")
    before = {
        Path(path).stem: _parsed(git.show(root, commit, path), f"{path} of {commit[:10]}")
        for path in listed
        if path.endswith(".json")
    }
    after = metric_files.read_all(root / "data/metrics")
    changed, others = figures.changes(before, after, new)
    notes = [
        f"Timings of {markdown.code(name)} are not compared: they are of two machines, or the machine is not recorded."
        for name in others
    ]
    if not changed:
        return ["**Metrics**: no figure changed.", *notes]
    changed.sort(key=lambda change: (not change.is_beyond, change.after is None, not change.figure.main))
    rows = [_metric(change) for change in changed]
    shown = sum(change.is_beyond or (change.figure.main and change.after is not None) for change in changed)
    header = ("figure", "before", "after", "change", "limit")
    return [
        f"**Metrics**: {len(changed)} figures changed",
        "",
        *markdown.table(header, rows, min(METRICS, shown or len(rows)), "more figures"),
        *([""] if notes else []),
        *notes[:4],
    ]


def _metric(change: figures.Change) -> tuple[str, ...]:
    unit = f", {change.figure.unit}" if change.figure.unit else ""
    name = f"{change.figure.name}{f' ({change.of})' if change.of else ''}{unit}"
    arrow = {"better": "better", "worse": "**worse**", "": ""}[change.verdict]
    limit = change.limit and f"{change.limit.replace('<', '&lt;').replace('>', '&gt;')}"
    if change.is_beyond:
        limit = f"**beyond {limit}**"
    return name, change.value(change.before), change.value(change.after), f"{change.difference} {arrow}".strip(), limit


def _parsed(content: bytes | None, source: str) -> Any:
    try:
        return json.loads(content or b"{}")
    except ValueError as error:
        raise ValueError(f"{source}: not JSON; correct it there or name another BASE") from error


def _value(values: dict[str, Any], key: str) -> str:
    return markdown.code(lock.plain(values[key])) if key in values else staleness.ABSENT


def main() -> None:
    """Command line of `make diff`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--base", default="origin/main", help="commit to compare with; default: origin/main")
    print(text(Path(), parser.parse_args().base))


if __name__ == "__main__":
    command_line.run(main)
