"""Checks of the machine: Python, uv, environment, disk, memory, cores, load, docker. The standard library is enough."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from stages.doctor.lines import OPTIONAL, REQUIRED, Line, gib, line

PYTHON = (3, 12)
DEVICE_PYTHON = (3, 10)
ENVIRONMENT_BYTES = 6.5 * 2**30
"""Size of .venv, measured with the lock of this version: 6.2 GB."""
SPARE_BYTES = 2**30
MEMORY_BYTES = 3 * 2**30
"""Measured in the sample profile: train, evaluate and export take 1.3 GiB at most. Twice that, and the system's own."""
OTHER_PROFILES_BYTES = 20 * 2**30
"""For checkpoints, graphs and engines of a network that was not built here yet. Derived: Swin-Large has 216 million
weights, 12 bytes each in a checkpoint with its optimizer, and all graphs and engines have about six times that."""
ANSWER_S = 8


def python(board: bool) -> list[Line]:
    """Python of the environment, or of a board."""
    wanted = DEVICE_PYTHON if board else PYTHON
    version, found = sys.version_info[:2], f"{platform.python_version()} ({sys.executable})"
    if board:
        ok, required, fix = (
            version >= wanted,
            "3.10 or newer",
            "name another: make doctor DEVICE_PYTHON=/usr/bin/python3",
        )
        return [line("Python", required, found, ok, fix)]
    other = next(filter(None, (shutil.which("python3.12"), _uv_python())), None)
    if version != wanted and other and _is_312(other):
        found, version = other, wanted
    fix = "install Python 3.12, or name it: make env UV_PYTHON=/path/to/python3.12"
    return [line("Python", "3.12", found, version == wanted, fix)]


def _is_312(path: str) -> bool:
    return _output(path, "-c", "import sys; print(*sys.version_info[:2])") == "3 12"


def _uv_python() -> str | None:
    uv = uv_path()
    found = _output(uv, "python", "find", "--no-project", "--offline", "3.12") if uv else ""
    return found or None


def uv_path() -> str | None:
    """Return uv's program, as scripts/env takes it: on PATH or in .tools/bin."""
    own = Path(".tools/bin/uv")
    return shutil.which("uv") or (str(own) if own.is_file() else None)


def uv() -> list[Line]:
    """The installer of the environment."""
    path = uv_path()
    script = Path("scripts/env")
    pinned = re.search(r"^UV_VERSION=(\S+)", script.read_text(encoding="utf-8"), re.M) if script.exists() else None
    required = f"any that reads uv.lock; `make env` installs {pinned[1]}" if pinned else "any that reads uv.lock"
    found = _output(path, "--version") if path else ""
    return [line("uv", required, f"{found} ({path})" if found else "none that runs", bool(found), "make env")]


def environment() -> list[Line]:
    """Check that .venv exists, runs and equals uv.lock. Installs nothing, uses no network."""
    required, name = "in step with uv.lock", "environment"
    program = Path(".venv/bin/python")
    if not program.exists():
        return [line(name, required, "no .venv", False, "make env")]
    if not _output(str(program), "-c", "print(1)"):
        return [line(name, required, f"{program} does not run", False, "rm -rf .venv, then make env")]
    uv = uv_path()
    if uv is None:
        return [line(name, required, ".venv, not compared: no uv", False, "make env")]
    # What an extra has installed may be there beside the lock's own packages.
    command = [uv, "sync", "--check", "--locked", "--inexact", "--offline", "--python", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    said = [text for text in done.stderr.splitlines() if re.match(r"\s*[-+~] |error|Would", text)]
    found = ".venv" if not done.returncode else f".venv: {'; '.join(said[:4]) or 'differs'}"
    return [line(name, required, found, not done.returncode, "make env")]


def disk() -> list[Line]:
    """Free space for what is not here yet: the environment, the artifacts that dvc.lock records, or the set's."""
    needs = {"to work in": SPARE_BYTES}
    if not Path(".venv").exists():
        needs["the environment"] = int(ENVIRONMENT_BYTES)
    needs |= _artifacts()
    free, needed = shutil.disk_usage(Path.cwd()).free, sum(needs.values())
    required = f"{gib(needed)}: " + ", ".join(f"{gib(size)} {what}" for what, size in needs.items())
    fix = "make room, or put .dvc/cache elsewhere: dvc cache dir --local /path"
    return [line("disk", required, f"{gib(free)} free at {Path.cwd()}", free >= needed, fix)]


def _artifacts() -> dict[str, int]:
    """Bytes that the profile's artifacts still need, by what they are."""
    try:
        import yaml
    except ImportError:
        return {"for artifacts (no YAML reader here)": SPARE_BYTES}

    def read(path: Path) -> Any:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}

    params, lock = read(Path("params.yaml")), read(Path("dvc.lock"))
    if not params:
        return {}
    profile = str(params["profile"])
    stages = lock.get("stages", {})
    recorded = stages.get("report", {}).get("params", {}).get("params.yaml", {}).get("profile")
    if recorded == profile:
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        missing = sum(out.get("size", 0) for out in outs if not Path(out["path"]).exists())
        return {f"for artifacts of profile {profile} that are in dvc.lock and not here": missing} if missing else {}
    root = Path(params["data"]["root"])
    size = sum(out.get("size", 0) for out in read(Path(f"{root}.dvc")).get("outs", []))
    # The COCO files of a set take at most what the set does.
    needs = {f"for artifacts of profile {profile}, never built here": OTHER_PROFILES_BYTES + size}
    if not root.exists():
        needs[f"for {root}" if size else f"for {root}, whose size is not known yet"] = size
    return needs


def memory() -> list[Line]:
    """Memory of the machine, or of its control group."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        sizes += [int(text)] if text.isdecimal() else []
    size = min(sizes)
    required = f"{gib(MEMORY_BYTES)} for the sample profile; more for larger networks"
    return [line("memory", required, gib(size), size >= MEMORY_BYTES, "use a machine with more")]


def cores() -> list[Line]:
    """Cores that this process may use, and how busy they are."""
    count, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    busy = f"{load:.1f} over the last minute"
    return [
        line("cores", "2 or more", str(count), count >= 2, "use a machine with more; it only takes longer", OPTIONAL),
        line("load", f"below {count}", busy, load < count, "wait: figures of benchmark would be too low", OPTIONAL),
    ]


def docker() -> list[Line]:
    """The daemon that train.runner: docker needs."""
    required, fix = "for train.runner docker alone", "install docker, and let this user use it, if you need it"
    path = shutil.which("docker")
    found = _output(path, "version", "--format", "{{.Server.Version}}") if path else ""
    return [line("docker", required, found or ("no daemon answers" if path else "none"), bool(found), fix, OPTIONAL)]


def packages() -> list[Line]:
    """NumPy and OpenCV, which a board needs beside its builder."""
    import cv2
    import numpy as np

    return [line("NumPy, OpenCV", "both", f"NumPy {np.__version__}, OpenCV {cv2.__version__}", True, "", REQUIRED)]


def _output(*command: str | None) -> str:
    """Return what a program prints; empty where it fails, is missing or does not answer."""
    try:
        done = subprocess.run(
            [part for part in command if part], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()
