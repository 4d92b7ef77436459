"""Finds the stages that are stale in dvc.lock, from code, parameters and dvc.lock alone. Needs no data.

DVC itself resolves dvc.yaml and hashes code. A dependency that another stage writes is compared with the output that
dvc.lock records for that stage, and not with the file in the workspace. So the answer is the same on a machine with the
data and in continuous integration without them, but for one kind of dependency. A part of an output, and a folder above
outputs, have a hash of their own. It is computed where DVC's cache knows the files of the outputs, or taken from
another dvc.lock with the same outputs. Elsewhere a folder above outputs is compared by bytes and number of files, and a
part of an output is listed in `State.unknown`.
"""

import graphlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.foundation import dvc_project, git
from stages.review import lock, trees

SHOWN = 4
"""Names in the text of a reason. More are counted."""
ABSENT = "(absent)"
LEFTOVERS = (
    " (not what the stages wrote into it; `make all` reads it again; if that changes nothing, delete what no stage "
    "writes, such as folders of former targets)"
)


@dataclass(frozen=True)
class Reason:
    """A reason why a stage runs again."""

    kind: str
    """One of: new, command, parameters, code, data, outputs or metrics; after: a stage before it runs again."""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "new":
            return "not in dvc.lock"
        if self.kind == "command":
            return "command"
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        return f"{self.kind} {', '.join(self.names[:SHOWN])}{more}"


@dataclass
class State:
    """Stale stages of dvc.lock. Dicts are in the order of the pipeline."""

    stale: dict[str, list[Reason]] = field(default_factory=dict)
    """Stale stage -> reasons."""
    elsewhere: dict[str, list[Reason]] = field(default_factory=dict)
    """The same for stages of targets that are built, or run, on a machine of their own. No other stage waits for them:
    their artifacts come when that machine has run."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Stage -> dependencies that can't be compared without DVC's cache."""


@contextmanager
def opened(root: Path) -> Iterator["Pipeline"]:
    """Open the pipeline in `root`.

    Raises FileNotFoundError where there is no DVC project or no dvc.yaml, and RuntimeError with DVC's message where DVC
    can't resolve it.
    """
    if not (root / "dvc.yaml").exists():
        raise FileNotFoundError(f"no dvc.yaml in {root.resolve()}; run this in the repository's root")
    with dvc_project.opened(root) as repo:
        yield Pipeline(root, repo)


class Pipeline:
    """The stages of dvc.yaml with the parameters of params.yaml."""

    def __init__(self, root: Path, repo: Any):  # DVC has no types
        from dvc.dvcfile import ProjectFile

        self.root, self.repo = root, repo
        self._file = ProjectFile(repo, str((root / "dvc.yaml").resolve()))
        self._cache = trees.Cache(repo)
        self._seen: dict[str, tuple[str, str | None]] = {}
        stages = self._load({})
        self.writes = {name: [out.def_path for out in stage.outs] for name, stage in stages.items()}
        """Stage -> paths of its outputs."""
        self.before = {
            name: [
                earlier
                for earlier, outs in self.writes.items()
                if earlier != name and any(trees.overlap(out, dep.def_path) for out in outs for dep in stage.deps)
            ]
            for name, stage in stages.items()
        }
        """Stage -> the stages whose outputs it depends on."""
        self.order = list(graphlib.TopologicalSorter(self.before).static_order())
        """All stages, each after those that it depends on."""

    def state(self, entries: lock.Entries, evidence: Sequence[lock.Entries] = ()) -> State:
        """Compare all stages with the entries of a dvc.lock. `evidence`: see `reasons`."""
        found, bound = State(), self._bound()
        first: dict[str, str] = {}
        for name in self.order:
            reasons, unknown = self.reasons(name, entries, evidence)
            for path in unknown:
                known = first.setdefault(path, name)
                if _recorded(entries, name, path) != _recorded(entries, known, path):
                    reasons.append(Reason("data", (f"{path} (another than {known}'s)",)))
            after = [earlier for earlier in self.before[name] if earlier in found.stale]
            # Without those that follow from others of them.
            after = [each for each in after if not any(each in self.before[other] for other in after)]
            reasons += [Reason("after", tuple(after))] if after else []
            if reasons:
                (found.elsewhere if name in bound else found.stale)[name] = reasons
            elif unknown:
                found.unknown[name] = unknown
        return found

    def reasons(
        self, name: str, entries: lock.Entries, evidence: Sequence[lock.Entries] = (), metrics: bool = True
    ) -> tuple[list[Reason], list[str]]:
        """Return why a stage is stale by itself, and its dependencies that can't be compared.

        evidence: other locks, from which the hash of a part of an output is taken where they have the same output.
        metrics: compare the outputs that git tracks too.
        """
        from dvc.dependency import ParamsDependency

        if name not in entries:
            return [Reason("new")], []
        stage, entry = self._load(entries, name)[name], entries[name]
        if stage.frozen:
            return [], []
        changed: dict[str, list[str]] = {"parameters": [], "code": [], "data": [], "metrics": []}
        recorded, unknown = lock.deps(entry), []
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                changed["parameters"] += _parameters(dep)
                continue
            kind, now = self._now(name, dep, entries, evidence)
            if now is None:
                unknown.append(dep.def_path)
            elif not trees.is_recorded(now, recorded.get(dep.def_path)):
                changed[kind].append(dep.def_path)
                if self._is_above(name, dep.def_path):
                    changed[kind][-1] += LEFTOVERS
        # What dvc.yaml no longer lists.
        changed["code"] += sorted(set(recorded) - {dep.def_path for dep in stage.deps})
        changed["outputs"] = sorted(set(self.writes[name]) ^ set(lock.outs(entry)))
        if metrics:
            in_git = [out for out in stage.outs if not out.use_cache and out.hash_info]
            changed["metrics"] += [out.def_path for out in in_git if out.workspace_status()]
        reasons = [Reason("command")] if stage.cmd_changed else []
        return reasons + [Reason(kind, tuple(names)) for kind, names in changed.items() if names], unknown

    def in_git(self) -> dict[str, list[str]]:
        """Return stage -> its outputs that git tracks and DVC's cache doesn't hold, such as metrics."""
        loaded = self._load({})
        return {name: [out.def_path for out in stage.outs if not out.use_cache] for name, stage in loaded.items()}

    def code(self) -> list[str]:
        """Return the paths of code that `state` has compared."""
        return sorted(path for path, (kind, _) in self._seen.items() if kind == "code")

    def _is_above(self, name: str, path: str) -> bool:
        """Return whether a dependency of a stage is a folder that holds outputs of others."""
        outs = [out for earlier in self.before[name] for out in self.writes[earlier]]
        return any(out != path and trees.inside(out, path) for out in outs)

    def _load(self, entries: lock.Entries, *names: str) -> dict[str, Any]:
        loader = self._file.LOADER(self._file, self._file.contents, {"stages": entries})
        return {name: loader[name] for name in names or loader}

    def _bound(self) -> set[str]:
        """Return the stages of targets that are built, or run, on a machine of their own.

        TensorRT builds for the GPU that it runs on, and engines of a GPU run on one. DVC's stages are named so by
        dvc.yaml.
        """
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_bytes()) if path.exists() else {}
        found = set()
        for target, about in ((params or {}).get("targets") or {}).items():
            foreign = about.get("architecture", "x86_64") not in ("x86_64", "any")
            if foreign or about.get("builder") == "tensorrt":
                found.add(f"engine@{target}")
            if foreign or about.get("device") == "cuda":
                found |= {f"verify@{target}", f"benchmark@{target}"}
        return found

    def _now(
        self, name: str, dep: Any, entries: lock.Entries, evidence: Sequence[lock.Entries]
    ) -> tuple[str, str | trees.Size | None]:
        """Return the kind of a dependency, code or data, and its hash or size; None where that can't be known."""
        path = dep.def_path
        declared = {
            out: earlier for earlier in self.before[name] for out in self.writes[earlier] if trees.overlap(out, path)
        }
        if declared:
            return "data", self._written(path, declared, entries, evidence)
        for folder in (path, *map(str, PurePosixPath(path).parents)):
            tracked = self.root / f"{folder}.dvc"
            if tracked.is_file():
                out = lock.outs(yaml.safe_load(tracked.read_bytes()) or {}).get(PurePosixPath(folder).name, {})
                return "data", lock.digest(out) if folder == path else self._cache.part(path, folder, out)
        if path not in self._seen:
            kind = "data" if git.ignores(self.root, path) else "code"
            missing = None if kind == "data" else "missing"
            self._seen[path] = kind, dep.get_hash().value if dep.exists else missing
        return self._seen[path]

    def _written(
        self, path: str, declared: dict[str, str], entries: lock.Entries, evidence: Sequence[lock.Entries]
    ) -> str | trees.Size | None:
        """Return hash or size of a dependency that other stages write. declared: path of an output -> its stage."""
        outs = _outs(declared, entries)
        if path in declared:
            return lock.digest(outs.get(path))
        folder = next((out for out in declared if trees.inside(path, out)), None)
        now: str | trees.Size | None
        if folder is not None:
            now = self._cache.part(path, folder, outs.get(folder, {}))
        else:
            now = self._cache.above(path, outs, self._others(path))
        if isinstance(now, str):
            return now
        hashes = {out: lock.digest(item) for out, item in outs.items()}
        for other in evidence:
            if {out: lock.digest(item) for out, item in _outs(declared, other).items()} == hashes:
                seen = {lock.digest(lock.deps(entry)[path]) for entry in other.values() if path in lock.deps(entry)}
                if len(seen) == 1:
                    return seen.pop()
        return now

    def _others(self, path: str) -> dict[str, Path]:
        """Return the files in a folder that are no outputs and that git tracks or would track."""
        listed = git.entries(self.root, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", path)
        outs = [out for outs in self.writes.values() for out in outs]
        found = {name: self.root / name for name in listed if not any(trees.inside(name, out) for out in outs)}
        ignored = self.repo.dvcignore.is_ignored_file
        return {name: file for name, file in found.items() if file.exists() and not ignored(os.path.abspath(file))}  # noqa: PTH100


def _outs(declared: dict[str, str], entries: lock.Entries) -> dict[str, lock.Entry]:
    """Return the entries of outputs, by their paths. Those of stages that aren't in the lock are left out."""
    return {
        out: lock.outs(entries[stage])[out]
        for out, stage in declared.items()
        if stage in entries and out in lock.outs(entries[stage])
    }


def _recorded(entries: lock.Entries, name: str, path: str) -> str | None:
    """Return the hash of a stage's dependency in a lock."""
    return lock.digest(lock.deps(entries[name]).get(path))


def _parameters(dep: Any) -> list[str]:
    """Return the keys whose values differ from those that dvc.lock records, with both values."""
    if not dep.workspace_status():
        return []
    recorded, now = dep.hash_info.value or {}, dep.read_params()
    return [value_change(key, recorded, now) for key in lock.changed_keys(recorded, now)] or [str(dep)]


def value_change(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return a text such as `train.epochs 3 -> 5`."""
    old, new = lock.flat(before), lock.flat(after)
    return f"{key} {_short(old.get(key, ABSENT))} -> {_short(new.get(key, ABSENT))}"


def _short(value: Any) -> str:
    text = lock.plain(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
