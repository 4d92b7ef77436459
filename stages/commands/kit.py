"""kit: pack all that another machine needs to verify, time and run an engine. Not a DVC stage.

Run by `make kit TARGET=id`. The tar file holds a folder with the code of the device side, the parameters as JSON, the
validation pictures with their truth, the checkpoint's maps, and the engine. If this host can't build the engine, the
graph is in its place, and the other machine builds. There it needs Python with NumPy and OpenCV, and no network. Next
is `make import-results` with the file that the machine writes.
"""

import os
import shlex
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stages import config
from stages.coco import panoptic
from stages.commands import board, pipeline_state, results
from stages.engines import build_record, manifest
from stages.foundation import command_line, dvc_project, files
from stages.releases import signing

CODE = (
    *("stages/__init__.py", "stages/engine.py", "stages/verify.py", "stages/benchmark.py"),
    *(
        f"stages/{name}"
        for name in ("coco", "config", "doctor", "engines", "foundation", "inference", "media", "metrics")
    ),
    *(
        f"stages/commands/{name}.py"
        for name in ("__init__", "board", "doctor", "predict", "predict_tree", "results", "tune")
    ),
    *(f"stages/releases/{name}.py" for name in ("__init__", "received", "signing")),
)
"""Code of the device side: a command there imports nothing else (a test checks that)."""
MAIN = Path(__file__).with_name("kit_main.py")


def pictures(coco: Path = results.COCO) -> list[Path]:
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


def contents(engine_or_graph: Path) -> list[Path]:
    """Return the files of a kit that are here too, sorted, by their paths from the current folder."""
    tops = [*map(Path, CODE), engine_or_graph, results.COCO, results.PREDICTIONS]
    return sorted({*below(tops), *pictures()})


def below(tops: Iterable[Path]) -> list[Path]:
    """Return the files among `tops` and below the folders among them, without those that Python and editors leave."""
    found = [path for top in tops for path in (sorted(top.rglob("*")) if top.is_dir() else [top])]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts and not p.name.endswith(("~", ".swp"))]


def builds_here(name: str, target: config.Target) -> bool:
    """Return whether this host can build the engine of a target, so that its kit has the engine."""
    try:
        manifest.check_host(name, target)
    except (RuntimeError, ModuleNotFoundError):
        return False
    return True


def readme(folder: str, builds: bool) -> str:
    """Return the lines to run on the other machine, with Python 3.10 or newer, NumPy and OpenCV."""
    commands = [*(["build"] if builds else []), *results.MEASURED, "predict SOURCE --out seen"]
    return "".join(f"python3 {folder} {command}\n" for command in commands)


def build(out: Path, name: str, cfg: config.Config, key: Path | None = None) -> None:
    """Write the kit for target `name` to the tar file `out`, and its signature by `key` beside it.

    Raises RuntimeError where a part of it is out of date, so that nothing is measured in vain, and ValueError where
    `out` is another file.
    """
    target = config.find_target(cfg, name)
    results.require_former(out, build_record.KIT)
    carried = builds_here(name, target)
    source = results.Layout(Path(), name).engine if carried else results.graph_folder(target)
    with dvc_project.opened() as repo:
        pipeline_state.require_fresh(repo, source, "make the kit")
    commit, dirty = build_record.git_state()
    folder = f"kit_{name}"
    # DVC's outputs may be links into its cache.
    with files.atomic_write(out) as draft, tarfile.open(draft, "w", dereference=True) as tar:
        results.add_text(tar, f"{folder}/README", text := readme(folder, not carried))
        tar.add(MAIN, f"{folder}/__main__.py")
        for path in contents(source):
            tar.add(path, f"{folder}/{path}", recursive=False)
        # One target, so that `doctor` there asks for nothing that others need.
        its_own = replace(cfg, targets={name: target}, runnable=[name])
        results.add_json(tar, f"{folder}/{board.PARAMETERS}", config.plain(its_own))
        results.add_json(tar, f"{folder}/{build_record.KIT}", {"target": name, "commit": commit, "dirty": dirty})
    signed = signing.sign_file(out, key)
    what = "with the engine" if carried else "with the graph, from which that machine builds the engine"
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {what}. On the machine that the engine is for:")
    if signed:
        verify = f"ssh-keygen -Y verify -n {signing.NAMESPACE} -f ALLOWED_SIGNERS -I SIGNER"
        print(f"  {verify} -s {shlex.quote(signed.name)} < {shlex.quote(out.name)}")
    print("".join(f"  {line}\n" for line in [f"tar xf {shlex.quote(out.name)}", *text.splitlines()]), end="")
    print(f"Then here, with the file that it names: make import-results FILE=results_{name}.tar")
    if name not in cfg.runnable:
        print(f"Add {name} to `runnable` in the profile before, so that stages take its figures (docs/targets.md).")


def main() -> None:
    """Command line of `make kit`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", required=True, help="target id, a key of targets in params.yaml")
    parser.add_argument("--out", type=Path, help="tar file; default: outputs/kit_TARGET.tar")
    args = parser.parse_args()
    build(args.out or Path(f"outputs/kit_{args.target}.tar"), args.target, config.load(), signing.key())


if __name__ == "__main__":
    command_line.run(main)
