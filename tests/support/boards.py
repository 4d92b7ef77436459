"""Machines that are no workspace: a clean Python 3.10 for kits, and results that were changed on the way."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.commands import results
from stages.foundation import files
from tests.conftest import REPO, must, run

PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
PACKAGES = ["numpy<2.3", "opencv-python-headless<5"]


def python_310() -> Iterator[Path]:
    """Interpreters that may be Python 3.10; pyenv's shims answer to the name and then fail."""
    yield from sorted(PYENV.glob("versions/3.10.*/bin/python3.10"))
    yield from sorted((Path.home() / ".local/share/uv/python").glob("cpython-3.10*/bin/python3.10"))
    if found := shutil.which("python3.10"):
        yield Path(found)


def clean_python(folder: Path, *more: str) -> Path:
    """The interpreter of a new environment in `folder` with NumPy, OpenCV and `more` packages; skips without 3.10."""
    for base in python_310():
        if (
            run(str(base), "-c", "import sys; raise SystemExit(sys.version_info[:2] != (3, 10))", cwd=REPO).returncode
            == 0
        ):
            break
    else:
        pytest.skip("no Python 3.10 on PATH, in pyenv's or in uv's folder")
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    must(uv, "venv", "--quiet", "--python", str(base), str(folder), cwd=REPO)
    must(uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *PACKAGES, *more, cwd=REPO)
    return folder / "bin/python"


def on(python: Path | str, *arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a machine's Python without this environment; never raises."""
    clean = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **env}
    return subprocess.run([python, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def reseal(folder: Path) -> None:
    """Make the records of unpacked results fit their files, as someone does who forges them."""
    content = files.read_json(folder / results.INDEX)
    for stage in content["stages"].values():
        for name in stage["files"]:
            stage["files"][name] = files.sha256(folder / name) if (folder / name).exists() else "0"
    files.write_json(folder / results.INDEX, content)
