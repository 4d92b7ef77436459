"""An AArch64 user space on an x86-64 host: Debian's Python with the packages of a board, run by QEMU's user mode.

Made once by apt-get, dpkg-deb and uv, without root and without changes to the host, in .tools/aarch64 or in the folder
of the environment variable AARCH64_ROOT. It takes 0.5 GB. The kernel is the host's and the CPU is emulated: results are
those of an Arm CPU, timings are not.
"""

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

from stages.foundation import files
from tests.conftest import REPO

CPU = "cortex-a76"
"""QEMU's nearest to the Cortex-A78AE of Jetson Orin: Armv8.2 with half precision and dot products, without SVE."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE, PYTHON = "trixie", "3.13"
"""Debian's release, and its Python. It has QEMU 10; on QEMU 7.2 ONNX Runtime 1.32 crashes while it is imported."""
PACKAGES = ["python3-minimal", "libpython3-stdlib", "libstdc++6"]
WHEELS = ["numpy", "opencv-python-headless", "onnxruntime", "onnx"]
"""Packages of a board with ONNX Runtime, in the versions of this environment, so that only the CPU differs."""

APT = """
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Debug::NoLocking "true";
Dir::State "FOLDER/state";
Dir::State::status "FOLDER/status";
Dir::Cache "FOLDER/cache";
Dir::Etc::sourcelist "FOLDER/sources.list";
Dir::Etc::sourceparts "-";
"""
"""Settings of an apt of its own; FOLDER stands for its folder. It knows no installed package."""

RUN = f"""#!/bin/sh
# Python of the AArch64 user space beside this file.
here=$(dirname -- "$(readlink -f -- "$0")")
exec "$here/qemu-aarch64" -cpu {CPU} -L "$here/root" "$here/root/usr/bin/python{PYTHON}" "$@"
"""


class UnavailableError(Exception):
    """Raised for what this host lacks, or can't fetch."""


def python() -> Path:
    """A program that runs Python on AArch64. Raises UnavailableError where it can't be made here, with the reason."""
    out = Path(os.environ.get("AARCH64_ROOT", REPO / ".tools/aarch64")).resolve()
    wheels = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    recipe = "\n".join([SUITE, PYTHON, *PACKAGES, *wheels, APT, RUN])
    record = out / "recipe"
    if not record.exists() or record.read_text() != recipe:
        if missing := [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]:
            raise UnavailableError(f"{missing[0]} not found; an AArch64 user space is made on Debian and Ubuntu")
        if not KEYRING.exists():
            raise UnavailableError(f"{KEYRING} not found; install debian-archive-keyring")
        with files.atomic_write(out) as draft:
            draft.mkdir()
            _make(draft, wheels)
            (draft / "recipe").write_text(recipe)
    return out / "python"


def _make(folder: Path, wheels: list[str]) -> None:
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "apt.conf").write_text(APT.replace("FOLDER", str(apt)))
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main\n")
    get = ["apt-get", "--quiet", f"--config-file={apt / 'apt.conf'}"]
    fetch(*get, "update", cwd=apt)
    fetch(*get, "--yes", "--download-only", "install", *PACKAGES, cwd=apt)
    fetch(*get, "download", "qemu-user:amd64", cwd=apt)
    # As on all of Debian: /lib is a link to /usr/lib.
    (folder / "root/usr/lib").mkdir(parents=True)
    (folder / "root/lib").symlink_to("usr/lib")
    for root, found in (("root", apt / "cache/archives"), ("host", apt)):
        for package in sorted(found.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, folder / root], check=True)
    # Its package holds the emulators of all architectures.
    (folder / "host/usr/bin/qemu-aarch64").rename(folder / "qemu-aarch64")
    for name in ("apt", "host"):
        shutil.rmtree(folder / name)
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    fetch(
        uv, "pip", "install", "--quiet", "--only-binary=:all:", "--python-platform=aarch64-manylinux_2_28",
        f"--python-version={PYTHON}", f"--target={folder / 'root/usr/lib/python3/dist-packages'}", *wheels, cwd=folder,
    )  # fmt: skip
    program = folder / "python"
    program.write_text(RUN)
    program.chmod(0o755)


def fetch(*command: str, cwd: Path) -> None:
    """Run a command that downloads. Raises UnavailableError with its first error."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        error = next((line for line in said if line.startswith(("E:", "error"))), said[-1])
        raise UnavailableError(f"{Path(command[0]).name}: {error.strip()}")
