"""build.json, beside each engine: which host built it, when, and from which code.

engine.json says what an engine is, build.json how it came to be. DVC ignores build.json (.dvcignore), so that two
machines which build the same engine write the same output.
"""

import datetime
import hashlib
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from stages import config
from stages.engines import manifest
from stages.engines.cuda import gpu
from stages.foundation import files, git, json_shapes

NAME = "build.json"

KIT = "kit.json"
"""File at the root of a kit (`make kit`), which has no git: the commit that its code is of, and whether it is dirty."""

ROOT = Path(__file__).parents[2]
"""The folder that holds stages/."""


@dataclass(frozen=True)
class Host:
    """The machine on which a process runs."""

    name: str
    cpu: str
    gpu: dict[str, str] | None
    """Fields of cuda.gpu.Gpu; None where no GPU is used."""
    system: str
    python: str


@dataclass(frozen=True)
class BuildRecord:
    """Content of build.json."""

    engine_sha256: str
    """SHA-256 of the engine that the record is about."""
    date: str
    """UTC, as 2026-11-28T01:12:36+00:00."""
    seconds: float
    """Time that the builder took."""
    commit: str
    """Git commit of the code; empty where it is not known."""
    dirty: bool
    """True if stages/, conf/, params.yaml or dvc.yaml differed from that commit."""
    code_sha256: str
    """SHA-256 of the code that builds engines for the target's device, by `code_sha256`."""
    host: Host


def write(folder: Path, target: config.Target, seconds: float) -> None:
    """Write folder/build.json for the engine that was built into `folder` just now, in `seconds`."""
    commit, dirty = git_state()
    engine = str(manifest.facts(folder)["engine_sha256"])
    code = code_sha256(target.device)
    record = BuildRecord(engine, now(), round(seconds, 2), commit, dirty, code, host(target))
    files.write_json(folder / NAME, asdict(record))


def read(folder: Path, engine_sha256: str) -> BuildRecord | None:
    """Read folder/build.json; None where it is missing or is about another engine than that with the SHA-256.

    Raises RuntimeError where the file is not such a record.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        record: BuildRecord = json_shapes.read(path, BuildRecord, "build it again")
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    return record if record.engine_sha256 == engine_sha256 else None


def host(target: config.Target) -> Host:
    """Return this machine, with its GPU if engines of the target run on one."""
    used = gpu.current() if target.device is config.Device.cuda else None
    return Host(
        platform.node(),
        manifest.cpu_model(),
        asdict(used) if used else None,
        platform.platform(),
        platform.python_version(),
    )


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")  # noqa: UP017 (Python 3.10)


def engine_code(device: config.Device) -> list[str]:
    """Return the files and folders of code that an engine's bytes depend on, as dvc.yaml lists them for `engine`."""
    return [
        "stages/engine.py",
        "stages/foundation",
        "stages/inference",
        "stages/engines/interface.py",
        "stages/engines/build_record.py",
        "stages/engines/manifest.py",
        "stages/engines/cuda/gpu.py",
        f"stages/engines/{device.value}",
    ]


def code_sha256(device: config.Device, root: Path = ROOT) -> str:
    """Return one SHA-256 of the names and bytes of the files of `engine_code`."""
    digest = hashlib.sha256()
    for name in engine_code(device):
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            # What .dvcignore leaves out.
            if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(("~", ".swp")):
                digest.update(f"{path.relative_to(root).as_posix()}\0{files.sha256(path)}\n".encode())
    return digest.hexdigest()


CODE_AND_PARAMETERS = ("stages", "conf", "params.yaml", "dvc.yaml")


def git_state(root: Path = ROOT) -> tuple[str, bool]:
    """Return the git commit of the code and whether code or parameters differ from it.

    From git, or from kit.json in a kit; ("", True) where there is neither.
    """
    kit = root / KIT
    if kit.exists():
        content = files.read_json(kit)
        return str(content["commit"]), bool(content["dirty"])
    try:
        top = git.text(root, "rev-parse", "--show-toplevel")
        commit = git.text(root, "rev-parse", "--verify", "HEAD")
        changes = git.text(root, "status", "--porcelain", "--", *CODE_AND_PARAMETERS)
    except (RuntimeError, FileNotFoundError):
        return "", True
    # A folder in another project's repository has that project's commit, which says nothing about this code.
    return (commit, bool(changes)) if Path(top).resolve() == root.resolve() else ("", True)
