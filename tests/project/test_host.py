"""Hosts that lack what most have: a home, a name for the user, and memory that processes share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import config
from tests.conftest import REPO


def isolated(*options: str, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script in namespaces of its own; skipped where the kernel lets users make none."""
    command = ["unshare", "--user", *options, "bash", "-euc"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"unshare --user {' '.join(options)} is not allowed here")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    clean = {"PATH": path, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([*command, shell], cwd=REPO, env=clean, capture_output=True, text=True, check=False)


def nameless(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As in a container by `docker run --user=12345`, without HOME unless it is given."""
    return isolated("--map-user=12345", "--map-group=12345", shell=shell, **environment)


PLOT = """
import getpass, os
import stages.report_page.figures as figures
figures.losses([{"epoch": 1, "train_loss": 1, "val_loss": 1}])
print(getpass.getuser(), os.environ["HOME"])
"""


def test_stages_give_libraries_a_home_until_they_end() -> None:
    # PyTorch's compiler asks for the user's name, and TAO imports it.
    done = nameless(f"python -W error -c 'import stages, torch._inductor.config{PLOT}'")
    assert (done.returncode, done.stderr) == (0, "")
    user, home = done.stdout.rstrip("\n").split(" ", 1)
    assert user == "12345"
    assert not Path(home).exists()


def test_a_home_that_can_not_be_written_to_is_kept_and_caches_are_elsewhere() -> None:
    done = nameless(f"python -W error -c '{PLOT}'", HOME="/proc")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "12345 /proc\n")


def test_make_gives_dvc_a_home_and_a_name() -> None:
    done = nameless("make --silent --eval='probe: ; @dvc version > /dev/null && echo \"$$USER $$HOME\"' probe")
    assert done.returncode == 0, done.stderr
    user, home = done.stdout.rstrip("\n").split(" ", 1)
    assert (user, home) == ("12345", str(REPO / ".tools/home"))
    done = subprocess.run(
        ["make", "--silent", "--eval=probe: ; @echo \"$$HOME\"", "probe"],
        cwd=REPO, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(Path("~").expanduser())


MOUNTS = {
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "full": "mount -t tmpfs -o size=4k none /dev/shm; head -c 4096 /dev/zero > /dev/shm/full",
}
"""Ways to spoil /dev/shm."""


@pytest.mark.parametrize("how", MOUNTS)
def test_without_shared_memory_one_line_says_so_before_anything_runs(tmp_path: Path, how: str) -> None:
    cfg = config.load(REPO / "params.yaml")
    cfg.sample = config.Sample(train_images=16, val_images=1, height_px=128, width_px=128)

    def sample(workers: int) -> subprocess.CompletedProcess[str]:
        cfg.data.workers = workers
        (tmp_path / "params.yaml").write_text(json.dumps(config.plain(cfg)))
        shell = f"{MOUNTS[how]}\ncd {tmp_path}; python -m stages.sample --out {workers}"
        return isolated("--map-root-user", "--mount", shell=shell, HOME=str(tmp_path))

    done = sample(2)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("/dev/shm, by which 2 processes (data.workers) share memory: found ")
    assert "or set data.workers: 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "2").exists()
    assert sample(1).returncode == 0


def test_shared_memory_too_small_for_batches_is_told_before_training() -> None:
    call = "from stages.foundation import parallel; parallel.check_shared_memory('train.workers', 4, 0, 400_000_000)"
    shell = f'mount -t tmpfs -o size=64m none /dev/shm\npython -c "{call}"'
    done = isolated("--map-root-user", "--mount", shell=shell, HOME="/tmp")
    assert done.returncode == 1
    assert "4 processes (train.workers) share memory: found 67 MB are free, expected 400 MB" in done.stderr
    assert "or set train.workers: 0" in done.stderr
