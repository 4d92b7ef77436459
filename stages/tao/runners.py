"""Commands that start TAO's training outside this process: torchrun, TAO's container and TAO's launcher.

All paths are absolute, and containers mount the repository at the path that it has on the host. The container runs
TAO's own command, `mask2former train` (docs.nvidia.com/tao). The launcher reads its settings from a mounts file in the
format of nvidia-tao 6.26.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import config
from stages.foundation import processes, text
from stages.tao import spec

RENDEZVOUS_PORT = 29500


@dataclass(frozen=True)
class Run:
    """Paths of one training."""

    spec: Path
    """spec.yaml, as TAO validates it."""
    results: Path
    """Folder for what TAO writes, in its subfolder train."""
    coco: Path
    """Folder that convert wrote."""
    start: Path | None = None
    """Pickle of weights to start from, in the format of the original Mask2Former's model zoo."""
    resume: Path | None = None
    """Checkpoint to resume from."""


class TrainingFailedError(RuntimeError):
    """A training command ended with an exit status other than 0."""

    def __init__(self, command: Sequence[str], status: int) -> None:
        super().__init__(f"{shlex.join(command)} ended with exit status {status}; its messages are above")
        self.status = status


def overrides(run: Run) -> list[str]:
    """Return Hydra overrides for the fields that spec.yaml leaves out."""
    found = {"results_dir": run.results}
    if run.resume:
        found["train.resume_training_checkpoint_path"] = run.resume
    elif run.start:
        found["train.pretrained_model_path"] = run.start
    return [f"{key}={_value(path)}" for key, path in found.items()]


def _value(path: Path) -> str:
    """Return an absolute path as a value of a Hydra override, in quotes if it has other characters than most have."""
    from hydra.core.override_parser.types import Quote, QuotedString

    text = str(path.resolve())
    if re.fullmatch(r"[\w/.:+ -]+", text, re.ASCII):
        return text
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def in_processes(train: config.Train) -> bool:
    """Return whether the runner `wheel` needs several processes."""
    return len(train.gpus) > 1 or train.nodes > 1


def wheel(run: Run, train: config.Train) -> list[str]:
    """Return the command that trains by TAO's wheel: torchrun's, the same on every node, if `in_processes`.

    Raises ValueError if there are several nodes and MASTER_ADDR is not set.
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
    """Return the command that trains in TAO's container. `mounts`: folders outside the repository `root`, read-only."""
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


def launcher(run: Run, cfg: config.Config) -> list[str]:
    """Return the command of TAO's launcher. LAUNCHER_MOUNTS must name a file with the content of `mounts_file`.

    The launcher starts in the image's own folder, so the command repeats the data's paths, absolute. Raises ValueError
    for a path with a space or a quote, which the launcher's shell would split.
    """
    found = overrides(run)
    for split in ("train", "val"):
        fields = spec.annotations(run.coco.resolve() / split, cfg)
        found += [f"dataset.{split}.{key}={value}" for key, value in fields.items() if key != "type"]
    found.append(f"dataset.label_map={run.coco.resolve() / 'label_map.json'}")
    command = ["tao", "model", "mask2former", "train", "-e", str(run.spec.resolve()), *found]
    for word in command:
        if shlex.quote(word) != word:
            raise ValueError(
                f"{word}: TAO's launcher can't take this path, expected letters, digits, - . _ / only; move the "
                "repository, or set train.runner: docker"
            )
    return command


def mounts_file(train: config.Train, root: Path, mounts: list[Path]) -> dict[str, object]:
    """Return the launcher's mounts file: the repository `root` and `mounts`, each under its path on the host."""
    return {
        "Mounts": [{"source": str(path), "destination": str(path)} for path in (root, *mounts)],
        "Envs": [{"variable": "HOME", "value": "/tmp"}],
        "DockerOptions": {
            "user": f"{os.getuid()}:{os.getgid()}",
            "shm_size": f"{train.container.shm_size_gib}G",
            "ulimits": {"memlock": -1, "stack": 67108864},
            # DVC runs a stage without a terminal.
            "tty": False,
        },
    }


def outside(coco: Path, root: Path) -> list[Path]:
    """List the folders outside `root` that links in the data point to, such as DVC's cache or a linked set."""
    found = set()
    for split in ("train", "val"):
        with (coco / split / "semantic.jsonl").open(encoding="utf-8") as lines:
            places = [(coco / split / name).resolve() for line in lines for name in json.loads(line).values()]
        for place in places:
            if not place.is_relative_to(root):
                # A file of DVC's cache is at files/md5/XX/YYY: mount all of the cache. Else mount the file's folder.
                cache = next((p for p in place.parents if p.name == "files"), None)
                found.add(cache or place.parent)
    return sorted(found)


def require_docker(image: str) -> None:
    """Raise RuntimeError, with the fix, unless Docker runs, has the NVIDIA runtime, and has `image` or may pull it."""
    if not shutil.which("docker"):
        raise RuntimeError(
            "docker not found on PATH; install Docker Engine and the NVIDIA Container Toolkit, or set "
            "train.runner: wheel, which needs neither"
        )
    info = _output("docker", "info", "--format={{json .Runtimes}}")
    if info.returncode:
        raise RuntimeError(
            f"Docker does not answer: {info.stderr.strip()}; start its service, and add your user to the group docker"
        )
    if "nvidia" not in json.loads(info.stdout):
        raise RuntimeError(
            f"Docker has the runtimes {sorted(json.loads(info.stdout))}, expected nvidia among them; install the "
            "NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, and restart Docker"
        )
    here = image and _output("docker", "image", "inspect", image).returncode == 0
    if not here and not _logged_in("nvcr.io"):
        raise RuntimeError(
            f"{image or 'the image of TAO'} is not on this machine, and ~/.docker/config.json has no login to nvcr.io; "
            "create a key at ngc.nvidia.com and run `docker login nvcr.io --username '$oauthtoken'` with it"
        )


def require_launcher() -> None:
    """Raise RuntimeError, with the fix, unless TAO's launcher and Docker can run."""
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
    content = text.read_json(path)
    known = [content.get(key) for key in ("auths", "credHelpers")] if isinstance(content, dict) else []
    return any(isinstance(registries, dict) and registry in registries for registries in known)


def call(command: list[str], **env: str) -> None:
    """Run a command and pass its output through. Raises TrainingFailedError if its exit status is not 0."""
    status = processes.run(command, env={**os.environ, **env}).returncode
    if status:
        raise TrainingFailedError(command, status)
