"""Results of an engine on another machine: one tar file that the machine writes and `make import-results` takes.

results.json in it has a record for each stage that ran there: verify and benchmark, and engine where the engine was
built there. A record is made when its stage ends, with the hashes of what its figures depend on and of the files it
wrote. So figures that were edited by hand, or measured by other code or on other data, are seen. Runs on devices.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from stages import config
from stages.engines import build_record, manifest
from stages.foundation import files, json_shapes

INDEX = "results.json"
COCO, PREDICTIONS = Path("data/coco/val"), Path("data/evaluate")
CODE = (
    "stages/verify.py",
    "stages/benchmark.py",
    "stages/coco/panoptic.py",
    "stages/foundation",
    "stages/inference",
    "stages/metrics",
    "stages/engines",
)
"""Code that figures depend on, as dvc.yaml lists it for `verify` and `benchmark` of an engine alone."""
MEASURED = ("verify", "benchmark")
STAGES = ("engine", *MEASURED)


class Record(TypedDict):
    """What a stage measured by, and what it wrote."""

    engine_sha256: str
    code_sha256: str
    commit: str
    dirty: bool
    parameters: dict[str, object]
    """The section `benchmark` of the parameters."""
    inputs: dict[str, str]
    """SHA-256 of the files that describe the validation set and the checkpoint's maps."""
    files: dict[str, str]
    """SHA-256 of each file that the stage wrote, by its path from the folder of kit or workspace."""


class Index(TypedDict):
    """Content of results.json."""

    target: str
    stages: dict[str, Record]


@dataclass(frozen=True)
class Layout:
    """Where files of a target are in the folder of a kit or of a workspace."""

    root: Path
    name: str
    """The target's id."""

    @property
    def engine(self) -> Path:
        """Folder of the engine."""
        return self.root / "data/engines" / self.name

    @property
    def maps(self) -> Path:
        """Folder of the engine's maps."""
        return self.root / "data/verify" / self.name

    def metrics(self, stage: str) -> Path:
        """Return the figures of a stage."""
        return self.root / f"data/metrics/{stage}_{self.name}.json"

    def record(self, stage: str) -> Path:
        """Return the record of a stage that ran in this folder."""
        return self.root / f"outputs/{stage}_{self.name}.record.json"

    def written(self, stage: str) -> list[Path]:
        """Return the files that a stage wrote, sorted. Verify's have engine.json, which says what was measured."""
        folders = {"engine": [self.engine], "verify": [self.maps], "benchmark": []}[stage]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return sorted({*found, self.metrics(stage), *([self.engine / manifest.NAME] if stage == "verify" else [])})


def graph_folder(target: config.Target) -> Path:
    """Return the folder of the graph that a target's engine is compiled from."""
    return Path("data/onnx") / target.variant.value / target.precision.value


def code_sha256(root: Path = build_record.ROOT) -> str:
    """Return one SHA-256 of the names and bytes of the files of CODE."""
    digest = hashlib.sha256()
    for top in (root / name for name in CODE):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            # What .dvcignore leaves out.
            if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(("~", ".swp")):
                digest.update(f"{path.relative_to(root).as_posix()}\0{files.sha256(path)}\n".encode())
    return digest.hexdigest()


def measured_by(root: Path, cfg: config.Config) -> dict[str, object]:
    """Return the part of a record that must be the same on both machines, but for the engine."""
    inputs = [COCO / "panoptic.json", COCO / "sources.json", PREDICTIONS / "panoptic.json"]
    return {
        "code_sha256": code_sha256(),
        "parameters": config.plain(cfg.benchmark),
        "inputs": {path.as_posix(): files.sha256(root / path) for path in inputs},
    }


def record(layout: Layout, stage: str, cfg: config.Config) -> None:
    """Write the record of a stage that ended just now."""
    commit, dirty = build_record.git_state()
    found = {
        "engine_sha256": manifest.facts(layout.engine)["engine_sha256"],
        "commit": commit,
        "dirty": dirty,
        **measured_by(layout.root, cfg),
        "files": {p.relative_to(layout.root).as_posix(): files.sha256(p) for p in layout.written(stage)},
    }
    layout.record(stage).parent.mkdir(exist_ok=True)
    files.write_json(layout.record(stage), found)


def missing(layout: Layout, cfg: config.Config) -> list[str]:
    """Return the stages of MEASURED that did not run yet with this engine, code, parameters and data."""
    now = {"engine_sha256": manifest.facts(layout.engine)["engine_sha256"], **measured_by(layout.root, cfg)}
    absent = []
    for stage in MEASURED:
        path = layout.record(stage)
        found = files.read_json(path) if path.exists() else {}
        if any(found.get(key) != value for key, value in now.items()):
            absent.append(stage)
    return absent


def pack(layout: Layout, with_engine: bool, out: Path) -> None:
    """Write the tar file `out` with the records and files of the stages; with the engine if it was built here.

    Raises ValueError where a file is not as its stage wrote it, or `out` is a file of another kind.
    """
    require_former(out, INDEX)
    stages = STAGES if with_engine else MEASURED
    index: Index = {"target": layout.name, "stages": {s: files.read_json(layout.record(s)) for s in stages}}
    require_unchanged(layout.root, index)
    with files.atomic_write(out) as draft, tarfile.open(draft, "w", dereference=True) as tar:
        add_json(tar, INDEX, index)
        for name in sorted({name for each in index["stages"].values() for name in each["files"]}):
            tar.add(layout.root / name, name)


def add_json(tar: tarfile.TarFile, name: str, content: object) -> None:
    """Add a JSON file to a tar file."""
    add_text(tar, name, json.dumps(content, indent=2) + "\n")


def add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    """Add a text file, UTF-8, to a tar file."""
    encoded = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(encoded)
    tar.addfile(member, io.BytesIO(encoded))


def read_index(folder: Path) -> Index:
    """Read folder/results.json. Raises ValueError where it has another content or lacks a stage."""
    found: Index = json_shapes.read(folder / INDEX, Index, "copy the results again")
    stages = set(found["stages"])
    if not set(MEASURED) <= stages <= set(STAGES):
        raise ValueError(f"{INDEX}: found the stages {sorted(stages)}, expected verify and benchmark; run both there")
    return found


def require_unchanged(folder: Path, index: Index) -> None:
    """Raise ValueError for the first file below `folder` that is not as its stage wrote it."""
    for stage, each in index["stages"].items():
        for name, expected in each["files"].items():
            path = folder / name
            found = files.sha256(path) if path.is_file() else "no such file"
            if found != expected:
                raise ValueError(
                    f"{files.printable(name)} is not as `{stage}` wrote it: SHA-256 {found}, expected {expected}; run "
                    f"`{stage}` again on its machine, and edit no figures"
                )


def require_former(out: Path, member: str) -> None:
    """Raise ValueError if there is a file `out` that is no tar file with a file named `member`: no earlier output."""
    if not os.path.lexists(out):
        return
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(out) as tar:
        if member in (name.rpartition("/")[2] for name in tar.getnames()):
            return
    raise ValueError(f"{files.printable(out)} is there, and this command did not write it; give OUT another name")
