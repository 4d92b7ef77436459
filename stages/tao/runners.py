"""The commands that start TAO's training outside this process: torchrun, TAO's container, and TAO's launcher.

Every path is made absolute, and containers see the repository under its own path. The container's command is TAO's
own, `mask2former train` (docs.nvidia.com/tao); the launcher's settings are those of nvidia-tao 6.26's mounts file.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import config
from stages.tao import spec

RENDEZVOUS_PORT = 29500


@dataclass(frozen=True)
class Run:
    """The files of one training."""

    spec: Path
    """spec.yaml, as TAO validates it."""
    results: Path
    """Folder for what TAO writes, in its subfolder train."""
    coco: Path
    """Folder that convert wrote."""
    start: Path | None = None
    """A pickle of weights to start from, as TAO's loader for the original's takes it."""
    resume: Path | None = None
    """A checkpoint to go on from."""


class TrainingFailedError(RuntimeError):
    """A command that trains ended with an exit status other than 0."""

    def __init__(self, command: Sequence[str], status: int) -> None:
        super().__init__(f"{shlex.join(command)} ended with exit status {status}; its messages are above")
        self.status = status


def overrides(run: Run) -> list[str]:
    """Hydra overrides of the fields that are not in spec.yaml."""
    found = [f"results_dir={run.results.resolve()}"]
    if run.resume:
        found.append(f"train.resume_training_checkpoint_path={run.resume.resolve()}")
    elif run.start:
        found.append(f"train.pretrained_model_path={run.start.resolve()}")
    return found


def in_processes(train: config.Train) -> bool:
    """Whether the runner wheel needs more processes than this one."""
    return len(train.gpus) > 1 or train.nodes > 1


def wheel(run: Run, train: config.Train) -> list[str]:
    """The command that trains by TAO's wheel: by torchrun if `in_processes`, then the same on every node.

    Raises ValueError where there are several nodes and MASTER_ADDR does not say where they meet.
    """
    command = [sys.executable]
    if in_processes(train):
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={len(train.gpus)}", *_nodes(train.nodes)]
    command += ["-m", "stages.training.program"]
    return command + [f"--{name}={path}" for name, path in vars(run).items() if path]


def _nodes(nodes: int) -> list[str]:
    if nodes == 1:
        return ["--standalone"]
    host = os.environ.get("MASTER_ADDR")
    if not host:
        raise ValueError(
            f"MASTER_ADDR is not set, and train.nodes is {nodes}: set it to the first node's name on each node"
        )
    return [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{RENDEZVOUS_PORT}"]


def docker(run: Run, train: config.Train, root: Path, mounts: list[Path]) -> list[str]:
    """The command that trains in TAO's container; `root` is the repository, `mounts` what is read outside it."""
    gpus = ",".join(map(str, train.gpus))
    volumes = [f"--volume={root}:{root}", *(f"--volume={path}:{path}:ro" for path in mounts)]
    return [
        "docker", "run", "--rm",
        # Docker parses the value as CSV, so the quotes are part of it.
        f'--gpus="device={gpus}"',
        f"--user={os.getuid()}:{os.getgid()}",
        f"--shm-size={train.container.shm_size_gib}g",
        "--ulimit=memlock=-1", "--ulimit=stack=67108864",
        *volumes,
        f"--workdir={root}",
        # The user id of the host has no home in the image.
        "--env=HOME=/tmp",
        train.container.image,
        "mask2former", "train", "-e", str(run.spec.resolve()), *overrides(run),
    ]  # fmt: skip


def launcher(run: Run, mode: config.Mode) -> list[str]:
    """The command of TAO's launcher, to be run with LAUNCHER_MOUNTS naming the file of `mounts_file`.

    It starts in the image's own folder, so that the data's paths are given anew, absolute. Raises ValueError for a path
    with a space or a quote, which the launcher's shell would take apart.
    """
    found = overrides(run)
    for split in ("train", "val"):
        fields = spec.annotations(run.coco.resolve() / split, mode)
        found += [f"dataset.{split}.{key}={value}" for key, value in fields.items() if key != "type"]
    found.append(f"dataset.label_map={run.coco.resolve() / 'label_map.json'}")
    command = ["tao", "model", "mask2former", "train", "-e", str(run.spec.resolve()), *found]
    for word in command:
        if shlex.quote(word) != word:
            raise ValueError(
                f"{word}: TAO's launcher takes no such path; move the repository to one of letters, digits, - . _ / "
                "alone, or set train.runner: docker"
            )
    return command


def mounts_file(train: config.Train, root: Path, mounts: list[Path]) -> dict[str, Any]:
    """Content of the launcher's mounts file: the repository and what is read outside it, under their own paths."""
    return {
        "Mounts": [{"source": str(path), "destination": str(path)} for path in (root, *mounts)],
        "Envs": [{"variable": "HOME", "value": "/tmp"}],
        "DockerOptions": {
            "user": f"{os.getuid()}:{os.getgid()}",
            "shm_size": f"{train.container.shm_size_gib}G",
            "ulimits": {"memlock": -1, "stack": 67108864},
            # A stage of DVC has no terminal.
            "tty": False,
        },
    }


def outside(coco: Path, root: Path) -> list[Path]:
    """Folders out of `root` that its data leads to by links: DVC's cache where it is elsewhere, a linked set."""
    found = set()
    for split in ("train", "val"):
        with (coco / split / "semantic.jsonl").open(encoding="utf-8") as lines:
            places = [(coco / split / name).resolve() for line in lines for name in json.loads(line).values()]
        for place in places:
            if not place.is_relative_to(root):
                # A file of DVC's cache is at files/md5/XX/YYY; else a folder holds many pictures.
                cache = next((p for p in place.parents if p.name == "files"), None)
                found.add(cache or place.parent)
    return sorted(found)


def require_docker(image: str) -> None:
    """Raise RuntimeError, saying what to do, unless Docker runs, has the NVIDIA runtime, and may pull `image`."""
    if not shutil.which("docker"):
        raise RuntimeError(
            "docker not found on PATH; install Docker Engine and the NVIDIA Container Toolkit, or set "
            "train.runner: wheel, which needs neither"
        )
    info = _output("docker", "info", "--format={{json .Runtimes}}")
    if info.returncode:
        raise RuntimeError(
            f"Docker does not answer: {info.stderr.strip()}; start its service, and put your user into the group docker"
        )
    if "nvidia" not in json.loads(info.stdout):
        raise RuntimeError(
            f"Docker has the runtimes {sorted(json.loads(info.stdout))} and not nvidia; install the NVIDIA Container "
            "Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, and restart Docker"
        )
    here = image and _output("docker", "image", "inspect", image).returncode == 0
    if not here and not _logged_in("nvcr.io"):
        raise RuntimeError(
            f"{image or 'the image of TAO'} is not on this machine, and ~/.docker/config.json has no login to nvcr.io; "
            "make a key at ngc.nvidia.com and run `docker login nvcr.io --username '$oauthtoken'` with it"
        )


def require_launcher() -> None:
    """Raise RuntimeError, saying what to do, unless TAO's launcher can run; see `require_docker`."""
    if not shutil.which("tao"):
        raise RuntimeError(
            "tao not found on PATH; install TAO's launcher in an environment of its own (`pip install nvidia-tao`) "
            "and put it on PATH, or set train.runner: wheel"
        )
    require_docker("")


def _output(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _logged_in(registry: str) -> bool:
    path = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json"
    if not path.exists():
        return False
    content = json.loads(path.read_text(encoding="utf-8"))
    return registry in content.get("auths", {}) or registry in content.get("credHelpers", {})


def call(command: list[str], **env: str) -> None:
    """Run a command, its messages passed through. Raises TrainingFailedError with its exit status if that is not 0."""
    status = subprocess.run(command, env={**os.environ, **env}, check=False).returncode
    if status:
        raise TrainingFailedError(command, status)
