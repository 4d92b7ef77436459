"""adopt: take over an engine that another machine built, once it is shown to be this workspace's. Not a DVC stage.

Run by `make adopt FILE=engine_ID.tar` with the file of `make engine`. Everything is checked before anything changes:
the target's fields against the parameters, the graph and the checkpoint against those here, the code that built it, the
hash of the engine in the manifest and in all figures, and the figures against `verify` of the parameters. Then engine
and figures are put into place, and DVC records them as the outputs of their stages.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from stages import config, verify
from stages.coco import panoptic
from stages.commands import engine as device
from stages.commands import pipeline_state
from stages.engines import build_record, manifest
from stages.foundation import command_line, dvc_project, files, versions
from stages.inference import description

FILE_NAME = re.compile(r"data/engines/[^/]+/[^/]+|data/verify/[^/]+/(panoptic/)?[^/]+|data/metrics/[^/]+\.json")


def unpack(tar_file: Path, folder: Path) -> str:
    """Unpack a file of `make engine` into `folder`; return the id of its target.

    Raises ValueError where it is not such a file.
    """
    expected = "the file that `make engine` wrote"
    try:
        with tarfile.open(tar_file) as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                if member.isdir() and name.split("/")[0] == "data" and ".." not in name:
                    continue
                if not member.isfile() or not FILE_NAME.fullmatch(name):
                    raise ValueError(f"{tar_file}: found {files.printable(member.name)} in it, expected {expected}")
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        # Python's error has a line for each compression that it tried.
        reason = str(error).partition("\n")[0].removesuffix(":")
        raise ValueError(f"{tar_file}: not a whole tar file ({reason}); expected {expected}") from error
    engines = sorted(folder.glob("data/engines/*"))
    if len(engines) != 1:
        raise ValueError(f"{tar_file}: found {len(engines)} engines in it, expected {expected}")
    name = engines[0].name
    if missing := [path for path in device.outputs(name) if not (folder / path).exists()]:
        raise ValueError(f"{tar_file}: {missing[0]} is missing in it, expected {expected}")
    return name


def check(folder: Path, name: str, cfg: config.Config) -> None:
    """Raise ValueError or RuntimeError where the unpacked engine of target `name` is not for this workspace."""
    _check_profile(name, cfg)
    target = cfg.targets[name]
    engine_folder, _, *metric_files = (folder / path for path in device.outputs(name))
    content = files.read_json(engine_folder / manifest.NAME)
    again = f"build it again on its machine: make kit TARGET={name}, then `make engine` there"
    _, built_for = manifest.target_of(engine_folder)
    for field in fields(config.Target):
        wanted, found = (config.plain(getattr(t, field.name)) for t in (target, built_for))
        same = versions.fits(found, wanted) if field.name == "builder_version" else found == wanted
        if not same:
            raise ValueError(
                f"engine {name} has targets.{name}.{field.name} {found!r}, params.yaml has {wanted!r}; {again}"
            )
    _check_graph(name, content["graph"], description.read(device.graph_folder(target)), again)
    engine = engine_folder / Path(str(content["engine"]["file"])).name
    sha256 = files.sha256(engine) if engine.is_file() else "no such file"
    if sha256 != content["engine"]["sha256"]:
        raise ValueError(
            f"{engine.name}: SHA-256 {sha256}, expected {content['engine']['sha256']} of engine.json; copy it again"
        )
    record = build_record.read(engine_folder, sha256)
    if record is None:
        raise ValueError(f"engine {name} has no build.json that is about it, expected one of `make engine`; {again}")
    if record.code_sha256 != build_record.code_sha256(target.device):
        commit = (record.commit[:12] or "unknown") + (" with changes" if record.dirty else "")
        raise ValueError(
            f"engine {name} was built by other code (commit {commit}) than that of the engine stage here; {again}"
        )
    _check_figures(name, sha256, {p.name: files.read_json(p) for p in metric_files}, engine_folder, cfg)


def _check_profile(name: str, cfg: config.Config) -> None:
    if name not in cfg.targets:
        raise ValueError(
            f"this is an engine of target {name}, params.yaml has {', '.join(cfg.targets)}; add it to the profile "
            '(docs/targets.md, "Add one") and run `make params`'
        )
    if name not in cfg.runnable:
        raise ValueError(
            f"target {name} is not in `runnable` ({', '.join(cfg.runnable) or 'empty'}), so no stage takes its "
            "figures; add it there in the profile and run `make params`"
        )


def _check_graph(name: str, found: Mapping[str, Any], here: description.Description, again: str) -> None:
    """`found` is the description in the manifest, `here` that of this workspace's graph."""
    checkpoint, expected = (p.get("checkpoint_sha256", "none") for p in (found["provenance"], here.provenance))
    if checkpoint != expected:
        raise ValueError(f"engine {name} is of checkpoint {checkpoint}, found {expected} in this workspace; {again}")
    expected = json.loads(json.dumps(asdict(here)))
    if differing := [key for key in expected if found.get(key) != expected[key]]:
        values = f"{found.get('sha256')}, found {here.sha256}"
        raise ValueError(f"engine {name} is of graph {values} in this workspace ({differing[0]} differs); {again}")


def _check_figures(name: str, sha256: str, metrics: Mapping[str, Any], engine_folder: Path, cfg: config.Config) -> None:
    for file, figures in metrics.items():
        if figures.get("engine_sha256") != sha256:
            raise ValueError(
                f"{file} has figures of engine {figures.get('engine_sha256')}, the engine is {sha256}; "
                f"run `make engine TARGET={name}` on its machine and pack nothing by hand"
            )
    if metrics[f"engine_{name}.json"] != manifest.facts(engine_folder):
        raise ValueError(f"engine_{name}.json is not what engine.json says; run `make engine TARGET={name}` again")
    verified = metrics[f"verify_{name}.json"]
    pictures = len(panoptic.read(device.COCO).entries)
    if verified["pictures"] != pictures:
        raise ValueError(
            f"engine {name} was verified on {verified['pictures']} pictures, the validation set has {pictures}; "
            f"make a new kit and build it again: make kit TARGET={name}"
        )
    verify.require_agreement(name, verified, cfg.verify, {})


def main() -> None:
    """Command line of `make adopt`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("file", type=Path, help="file that `make engine` wrote")
    tar_file = parser.parse_args().file
    tar_file.stat()  # Before a folder is made.
    cfg = config.load()
    Path("outputs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".adopt", dir="outputs") as scratch:
        folder = Path(scratch)
        name = unpack(tar_file, folder)
        _check_profile(name, cfg)
        stages = [f"{stage}@{name}" for stage in device.METRICS]
        with dvc_project.opened() as repo:
            graph = device.graph_folder(cfg.targets[name])
            pipeline_state.require_fresh(repo, graph, "adopt the engine")
        check(folder, name, cfg)
        for path in device.outputs(name):
            with files.atomic_write(path) as draft:
                shutil.move(folder / path, draft)
    subprocess.run(["dvc", "commit", "--quiet", "--force", *stages], check=True)
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, stages)
    print(f"engine {name} is adopted. Next: make all (its figures go into the report), make push, and")
    print(f"  git add dvc.lock data/metrics && git commit -m 'Engine {name}'")


if __name__ == "__main__":
    command_line.run(main)
