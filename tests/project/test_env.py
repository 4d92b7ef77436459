"""scripts/env on machines that lack something."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the script and a PATH of almost nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy2(REPO / "scripts/env", tmp_path / "scripts/env")
    for program in ("bash", "dirname"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    return tmp_path


def program(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def env(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": str(folder / "bin"), "HOME": str(folder), **variables}
    return subprocess.run(
        [folder / "bin/bash", folder / "scripts/env"], env=clean, capture_output=True, text=True, check=False
    )


def test_no_python_312(bare: Path) -> None:
    program(bare, "uv", "exit 2")
    program(bare, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    done = env(bare)
    assert done.returncode == 1
    assert "Python 3.12 is needed" in done.stderr
    assert "Looked for" in done.stderr
    assert "UV_PYTHON=/path/to/python3.12" in done.stderr


def test_no_uv_and_no_pip(bare: Path) -> None:
    program(bare, "python3", "exit 1")
    done = env(bare)
    assert done.returncode == 1
    assert "Install uv" in done.stderr


def test_a_wrong_interpreter_is_refused(bare: Path) -> None:
    program(bare, "uv", "exit 0")
    program(bare, "mine", "exit 1")
    done = env(bare, UV_PYTHON=str(bare / "bin/mine"))
    assert done.returncode == 1
    assert "mine is not a Python 3.12" in done.stderr


def test_given_interpreter_is_used(bare: Path) -> None:
    program(bare, "uv", 'echo "uv $*"')
    program(bare, "mine", "exit 0")
    done = env(bare, UV_PYTHON=str(bare / "bin/mine"))
    assert done.returncode == 0, done.stderr
    assert f"--python {bare}/bin/mine" in done.stdout
    assert "--locked" in done.stdout
    assert "--compile-bytecode" in done.stdout
