"""engine: build, verify, time and pack an engine in a clone on the machine that it is for. Runs on devices.

Run by `make engine TARGET=id` in a clone with a DVC remote, from which it pulls what it needs. A machine without one
gets a kit (`make kit`). Needs Python 3.10 or newer with NumPy, OpenCV and the builder, and no PyTorch.
`make import-results` takes the tar file over into the workspace.
"""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from stages import config
from stages.coco import panoptic
from stages.commands import board, results
from stages.engines import manifest
from stages.foundation import command_line, files
from stages.releases import signing
from stages.remotes import connection


def pull(paths: Iterable[Path]) -> None:
    """Pull paths from the DVC remote where this is a clone that has one, and check them; nothing elsewhere.

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


def build(name: str, cfg: config.Config, out: Path, key: Path | None = None) -> None:
    """Build, verify and time the engine of target `name`; pack it with its figures into the tar file `out`.

    Its signature by `key` is written beside it.

    Raises RuntimeError where this host is not what the target needs, or the engine is not as accurate as required; then
    nothing is packed. Raises ValueError where `out` is another file.
    """
    target = config.find_target(cfg, name)
    results.require_former(out, results.INDEX)
    manifest.check_host(name, target)
    manifest.check_run_host(name, target)
    folders = [results.graph_folder(target), results.COCO, results.PREDICTIONS]
    pull(folders)
    require(folders, name)
    pictures = [Path(os.path.normpath(entry.image)) for entry in panoptic.read(results.COCO).entries]
    if not all(path.exists() for path in pictures):
        pull(sorted({path.parent for path in pictures}))
    require(pictures, name)

    layout = results.Layout(Path(), name)
    board.build(layout, cfg)
    for stage in results.MEASURED:
        board.measure(layout, stage, cfg)
    board.finish(layout, with_engine=True, out=out, key=key)


def main() -> None:
    """Command line of `make engine`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters; .json needs no reader")
    parser.add_argument("--out", type=Path, help="tar file; default: outputs/results_TARGET.tar")
    args = parser.parse_args()
    out = args.out or Path(f"outputs/results_{args.target}.tar")
    build(args.target, config.load(args.params), out, signing.key())


if __name__ == "__main__":
    command_line.run(main)
