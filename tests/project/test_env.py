"""scripts/env on machines that lack something."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPO


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the script and a PATH of almost nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy2(REPO / "scripts/env", tmp_path / "scripts/env")
    for program in ("bash", "dirname", "mkdir", "rm"):
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


@pytest.fixture
def syncing(bare: Path) -> Path:
    """A uv that writes the extras of each sync to the file `asked`, and fails where the file `broken` is."""
    program(
        bare,
        "uv",
        f"""[ "$1" = sync ] || exit 0
[ ! -e {bare}/broken ] || {{ echo "error: Failed to build $(<{bare}/broken)" >&2; echo "  cause: more" >&2; exit 1; }}
asked=
while [ $# -gt 0 ]; do [ "$1" = --extra ] && asked="$asked $2"; shift; done
echo "$asked" >>{bare}/asked""",
    )
    program(bare, "python3.12", "exit 0")
    return bare


def asked(folder: Path) -> list[str]:
    """The extras of the last sync."""
    return (folder / "asked").read_text().splitlines()[-1].split()


def test_extras_are_kept_by_later_syncs(syncing: Path) -> None:
    assert env(syncing, EXTRAS="s3").returncode == 0
    assert asked(syncing) == ["s3"]
    done = env(syncing)
    assert asked(syncing) == ["s3"]
    assert "extras: s3" in done.stdout
    env(syncing, EXTRAS="tensorrt,gs s3")
    assert asked(syncing) == ["tensorrt", "gs", "s3"]
    env(syncing, EXTRAS="tensorrt10")
    assert asked(syncing) == ["gs", "s3", "tensorrt10"], "the two versions of TensorRT exclude each other"
    env(syncing, EXTRAS="-gs -s3 -tensorrt10")
    assert asked(syncing) == []
    assert not (syncing / ".tools/extras").exists()


def test_extras_that_the_remotes_need(syncing: Path) -> None:
    (syncing / ".dvc").mkdir()
    (syncing / ".dvc/config").write_text("['remote \"a\"']\n    url = s3://bucket/x\n    url2 = gs://no\n")
    (syncing / ".dvc/config.local").write_text('[\'remote "b"\']\nurl = "webdavs://host/x y, z"')
    assert env(syncing).returncode == 0
    assert asked(syncing) == ["s3", "webdav"]
    assert not (syncing / ".tools/extras").exists(), "the settings tell, no second record"


def test_an_extra_that_can_not_be_installed(syncing: Path) -> None:
    env(syncing, EXTRAS="s3")
    (syncing / "broken").write_text("`tensorrt-cu13-libs==11.4.0.106`")
    done = env(syncing, EXTRAS="tensorrt")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for piece in ("extra tensorrt", "pypi.nvidia.com", "tensorrt-cu13-libs", "EXTRAS=-tensorrt", "DEVICE_PYTHON"):
        assert piece in done.stderr
    assert (syncing / ".tools/extras").read_text() == "s3\n"
    (syncing / "broken").write_text("`webdav4`")
    done = env(syncing, EXTRAS="webdav")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "extras s3 webdav" in done.stderr


@pytest.mark.parametrize("name", ["cuda", "s3;rm", "*", "--all-extras"])
def test_an_unknown_extra(syncing: Path, name: str) -> None:
    done = env(syncing, EXTRAS=name)
    assert done.returncode == 1
    assert "expected some of: azure gs s3 ssh webdav tensorrt tensorrt10" in done.stderr
    assert not (syncing / "asked").exists()


def test_extras_are_in_the_lock() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    known = re.search(r'^KNOWN_EXTRAS="(.*)"$', (REPO / "scripts/env").read_text(), re.MULTILINE)
    assert known is not None
    assert sorted(known[1].split()) == sorted(project["project"]["optional-dependencies"])
    packages = tomllib.loads((REPO / "uv.lock").read_text())["package"]
    for name in ("tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-cu13-bindings"):
        found = {p["version"]: p for p in packages if p["name"] == name}
        assert sorted(found) == ["10.13.3.9.post1", "11.4.0.106"]
        for package in found.values():
            sources = [package["sdist"]] if "sdist" in package else package["wheels"]
            assert all(source["hash"].startswith("sha256:") for source in sources)
    assert {f"dvc-{kind}" for kind in ("s3", "ssh", "gs", "azure", "webdav")} <= {p["name"] for p in packages}
