"""kit: pack all that another machine needs to build, verify and time an engine. Not a DVC stage.

Run by `make kit TARGET=id` where the graph was made. The tar file holds the code, the parameters as JSON, the graph,
the validation pictures with their truth, and the checkpoint's maps. Unpacked on a board, `make engine TARGET=id` needs
Python with NumPy, OpenCV and the engine's builder, and no network. Next is `make adopt` with the file that it writes.
"""

import io
import json
import os
import shlex
import tarfile
from pathlib import Path

from stages import config
from stages.coco import panoptic
from stages.commands import engine as device
from stages.commands import pipeline_state
from stages.engines import build_record
from stages.foundation import command_line, dvc_project, files

CODE = ("stages", "Makefile")


def pictures(coco: Path = device.COCO) -> list[Path]:
    """Return the validation pictures by their paths from the current folder.

    Raises ValueError where one is outside of it: the paths in the set lead to nowhere on another machine.
    """
    found = []
    for entry in panoptic.read(coco).entries:
        path = Path(os.path.normpath(entry.image))
        if path.is_absolute() or path.parts[0] == "..":
            raise ValueError(
                f"picture {files.printable(path)} is outside of the project; track the set by `make data`, convert it"
            )
        found.append(path)
    return found


def contents(target: config.Target) -> list[Path]:
    """Return the files of a kit but for params.json and kit.json, sorted, by their paths from the current folder."""
    folders = [Path(name) for name in CODE] + [device.graph_folder(target), device.COCO, device.PREDICTIONS]
    found = [path for top in folders for path in (sorted(top.rglob("*")) if top.is_dir() else [top])]
    kept = [p for p in found if p.is_file() and "__pycache__" not in p.parts and not p.name.endswith(("~", ".swp"))]
    return sorted({*kept, *pictures()})


def build(out: Path, name: str, cfg: config.Config) -> None:
    """Write the kit for target `name` to the tar file `out`.

    Raises RuntimeError where a part of it is out of date, so that no engine is built from it in vain, and ValueError
    where `out` is another file.
    """
    target = config.find_target(cfg, name)
    device.require_former(out, build_record.KIT)
    with dvc_project.opened() as repo:
        pipeline_state.require_fresh(repo, device.graph_folder(target), "make the kit")
    commit, dirty = build_record.git_state()
    # DVC's outputs may be links into its cache.
    with files.atomic_write(out) as draft, tarfile.open(draft, "w", dereference=True) as tar:
        for path in contents(target):
            tar.add(path, recursive=False)
        _add(tar, device.PARAMETERS.name, config.plain(cfg))
        _add(tar, build_record.KIT, {"commit": commit, "dirty": dirty})
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB. On the machine of the engine, in an empty folder:")
    print(f"  tar xf {shlex.quote(out.name)} && make engine TARGET={name}")
    print(f"Then here, with the file that it names: make adopt FILE=engine_{name}.tar")


def _add(tar: tarfile.TarFile, name: str, content: object) -> None:
    encoded = (json.dumps(content, indent=2) + "\n").encode()
    member = tarfile.TarInfo(name)
    member.size = len(encoded)
    tar.addfile(member, io.BytesIO(encoded))


def main() -> None:
    """Command line of `make kit`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", required=True, help="target id, a key of targets in params.yaml")
    parser.add_argument("--out", type=Path, help="tar file; default: outputs/kit_TARGET.tar")
    args = parser.parse_args()
    build(args.out or Path(f"outputs/kit_{args.target}.tar"), args.target, config.load())


if __name__ == "__main__":
    command_line.run(main)
