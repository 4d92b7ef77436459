"""engine: build, verify, time and pack an engine on the machine that it is for. Runs on devices.

Run by `make engine TARGET=id` in an unpacked kit (`make kit`), or in a clone with a DVC remote, from which it pulls
what it needs. Needs Python 3.10 or newer with NumPy, OpenCV and the builder, and no PyTorch. `make adopt` takes the tar
file over into the workspace.
"""

import contextlib
import importlib.util
import os
import shlex
import tarfile
from collections.abc import Iterable
from pathlib import Path

from stages import benchmark, config, engine, verify
from stages.coco import panoptic
from stages.engines import manifest
from stages.foundation import command_line, files
from stages.remotes import connection

COCO, PREDICTIONS, PARAMETERS = Path("data/coco/val"), Path("data/evaluate"), Path("params.json")
METRICS = ("engine", "verify", "benchmark")


def graph_folder(target: config.Target) -> Path:
    """Return the folder of the graph that a target's engine is compiled from."""
    return Path("data/onnx") / target.variant.value / target.precision.value


def outputs(name: str) -> list[Path]:
    """Return the files and folders that are packed, and that `make adopt` puts into place."""
    return [
        Path("data/engines") / name,
        Path("data/verify") / name,
        *(Path(f"data/metrics/{stage}_{name}.json") for stage in METRICS),
    ]


def pull(paths: Iterable[Path]) -> None:
    """Pull paths from the DVC remote where this is a clone that has one, and check them; nothing in a kit.

    Also a remote that was set by hand is verified. Raises RuntimeError, one line, where it fails.
    """
    if not Path(".dvc").is_dir() or importlib.util.find_spec("dvc") is None:
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo() as repo:
        name = repo.config["core"].get("remote", "")
        url = repo.config["remote"].get(name, {}).get("url", "")
    if not url:
        return
    try:
        with Repo(config={"remote": {name: {"verify": True}}}) as repo, connection.talking(name, url):
            repo.pull([str(path) for path in paths])
    except DvcException as error:
        raise RuntimeError(
            f"remote {name}, {url}: dvc pull failed ({' '.join(str(error).split())}); push from the workspace, or "
            "unpack a kit here (`make kit`)"
        ) from error


def require(paths: Iterable[Path], name: str) -> None:
    """Raise FileNotFoundError, with what to do, for the first path that is missing."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{files.printable(path)} not found here; set a DVC remote and install DVC with its extra, or unpack "
                f"the file that `make kit TARGET={name}` writes in the workspace"
            )


def require_former(out: Path, member: str) -> None:
    """Raise ValueError if there is a file `out` that is no tar file with the file `member`, so not an earlier one."""
    if not os.path.lexists(out):
        return
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(out) as tar:
        if member in tar.getnames():
            return
    raise ValueError(f"{files.printable(out)} is there, and this command did not write it; give OUT another name")


def build(name: str, cfg: config.Config, out: Path) -> None:
    """Build, verify and time the engine of target `name`; pack it with its figures into the tar file `out`.

    Raises RuntimeError where this host is not what the target needs, or the engine is not as accurate as required; then
    nothing is packed. Raises ValueError where `out` is another file.
    """
    target = config.find_target(cfg, name)
    built, maps, *metrics = outputs(name)
    require_former(out, str(metrics[0]))
    manifest.check_host(name, target)
    manifest.check_run_host(name, target)
    folders = [graph_folder(target), COCO, PREDICTIONS]
    pull(folders)
    require(folders, name)
    pictures = [Path(os.path.normpath(entry.image)) for entry in panoptic.read(COCO).entries]
    if not all(path.exists() for path in pictures):
        pull(sorted({path.parent for path in pictures}))
    require(pictures, name)

    engine.build(graph_folder(target), built, name, target, Path(".timing_cache") / name, metrics[0])
    verify.build(built, PREDICTIONS, COCO, maps, metrics[1], name, cfg)
    benchmark.build(built, None, COCO, metrics[2], name, cfg)
    with files.atomic_write(out) as draft, tarfile.open(draft, "w") as tar:
        for path in outputs(name):
            tar.add(path)
    file = shlex.quote(out.name)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Copy it to the workspace; there: make adopt FILE={file}")


def main() -> None:
    """Command line of `make engine`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--params", type=Path, help="parameters; default: params.json of a kit, else params.yaml")
    parser.add_argument("--out", type=Path, help="tar file; default: outputs/engine_TARGET.tar")
    args = parser.parse_args()
    params = args.params or (PARAMETERS if PARAMETERS.exists() else Path("params.yaml"))
    build(args.target, config.load(params), args.out or Path(f"outputs/engine_{args.target}.tar"))


if __name__ == "__main__":
    command_line.run(main)
