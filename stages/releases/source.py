"""A commit of the project: files as git has them, and outputs of stages from DVC's cache or its remote."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.foundation import dvc_project


@dataclass(frozen=True)
class Output:
    """DVC's record of an output, or of a dependency."""

    stage: str
    """Name of the stage, such as engine@cpu, or of the .dvc file."""
    md5: str
    """DVC's hash; of a folder the hash of its list of files, which ends with .dir. Empty where it was never made."""
    bytes: int
    files: int
    """Number of files; 1 for a file."""


@dataclass(frozen=True)
class Artifact:
    """An entry of `artifacts` in dvc.yaml."""

    path: str
    type: str
    labels: list[str]
    description: str


class Source:
    """The files of one commit. Paths are relative to the root of the repository, with slashes."""

    def __init__(self, repo: Any, commit: str) -> None:
        """`repo` is DVC's Repo, switched to `commit`, a full hash."""
        self.commit = commit
        self._repo, self._files = repo, repo.dvcfs
        self.outputs = {self._relative(out.fs_path): _output(out, self._name(out.stage)) for out in repo.index.outs}
        """By path, in the order of dvc.yaml."""
        self.artifacts = {
            name: Artifact(found.path, found.type or "", list(found.labels), found.desc or "")
            for name, found in repo.artifacts.read().get("dvc.yaml", {}).items()
        }

    def dependency(self, stage: str, path: str) -> Output | None:
        """Return what DVC recorded of a stage's dependency, or None where the stage has no such one."""
        for found in self._repo.index.stages:
            if self._name(found) == stage:
                for dep in found.deps:
                    if str(dep.def_path) == path:
                        return _output(dep, stage)
        return None

    def exists(self, path: str) -> bool:
        """Return whether the commit has a file at `path`, in git or in DVC."""
        return bool(self._files.isfile(path))

    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises RuntimeError where neither git nor DVC's cache or remote has it."""
        try:
            return bytes(self._files.read_bytes(path))
        except Exception as error:  # DVC's file systems raise errors of their own, of many kinds
            raise RuntimeError(self._missing(path, error)) from error

    def read_json(self, path: str) -> Any:
        """Parse a JSON file. Raises as `read`, and ValueError where it is not JSON."""
        content = self.read(path)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} of commit {self.commit[:12]} is not JSON ({error})") from error

    def names(self, folder: str) -> list[str]:
        """Return the paths of all files below `folder`, relative to it, sorted. Raises RuntimeError as `read`."""
        try:
            found = [str(path) for path in self._files.find(folder)]
        except Exception as error:
            raise RuntimeError(self._missing(folder, error)) from error
        return sorted(path.removeprefix("/").removeprefix(f"{folder}/") for path in found)

    def sha256(self, path: str) -> tuple[str, int]:
        """Return SHA-256 and number of bytes of a file, which is read in blocks. Raises RuntimeError as `read`."""
        digest, size = hashlib.sha256(), 0
        try:
            with self._files.open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    size += len(block)
        except Exception as error:
            raise RuntimeError(self._missing(path, error)) from error
        return digest.hexdigest(), size

    def _relative(self, path: str) -> str:
        return str(self._repo.fs.relpath(path, self._repo.root_dir))

    def _name(self, stage: Any) -> str:
        return str(getattr(stage, "name", "") or self._relative(stage.path))

    def _missing(self, path: str, error: Exception) -> str:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return (
            f"{path} of commit {self.commit[:12]} can't be read from git, DVC's cache or its remote "
            f"({reason}); run `make pull` in a checkout of that commit"
        )


def _output(out: Any, stage: str) -> Output:
    return Output(stage, out.hash_info.value or "", out.meta.size or 0, out.meta.nfiles or 1)


@contextmanager
def opened(root: Path, commit: str) -> Iterator[Source]:
    """Open a commit, given by its full hash, of the repository at `root`. The workspace stays as it is.

    Raises FileNotFoundError where there is no DVC project, and RuntimeError where DVC can't read the commit's files.
    """
    with dvc_project.opened(root) as repo, repo.switch(commit):
        yield Source(repo, commit)
