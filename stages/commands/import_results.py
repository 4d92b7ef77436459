"""import_results: take over what another machine measured, once it is shown to be this workspace's. Not a DVC stage.

Run by `make import-results FILE=results_ID.tar` with the file that a kit or `make engine` wrote. With ALLOWED_SIGNERS
its signature, FILE.sig, is checked before it is opened. Everything is checked before anything changes: each file
against the record of its stage; code, parameters and data of the measurement, the target's fields, the graph and the
checkpoint against those here; the hash of the engine in all figures; and the figures against `verify` of the
parameters. An engine that was built there is checked too and taken over; otherwise it must be the engine that is here.
Then DVC records the files as the outputs of their stages.
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
from stages.commands import pipeline_state, results
from stages.engines import build_record, manifest
from stages.foundation import command_line, dvc_project, files, versions
from stages.inference import description
from stages.metrics import metric_files
from stages.releases import signing

FILE_NAME = re.compile(
    r"results\.json|data/engines/[^/]+/[^/]+|data/verify/[^/]+/(panoptic/)?[^/]+|data/metrics/[^/]+\.json"
)


def unpack(tar_file: Path, folder: Path) -> results.Index:
    """Unpack the results of a machine into `folder`; return their records.

    Raises ValueError where it is not such a file, or a file in it was changed.
    """
    expected = "the results that a kit or `make engine` wrote"
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
    if not (folder / results.INDEX).exists():
        raise ValueError(f"{tar_file}: {results.INDEX} is missing in it, expected {expected}")
    index = results.read_index(folder)
    layout = results.Layout(folder, index["target"])
    recorded = {name for each in index["stages"].values() for name in each["files"]}
    needed = [
        layout.engine / manifest.NAME,
        layout.maps / "panoptic.json",
        *(layout.metrics(stage) for stage in index["stages"]),
    ]
    for path in (path.relative_to(folder).as_posix() for path in needed):
        if path not in recorded:
            raise ValueError(f"{tar_file}: {path} has no record in {results.INDEX}, expected {expected}")
    # Not others: results.json names only files that it brought, and only those are taken over.
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {results.INDEX}
    if more := sorted(found - recorded):
        raise ValueError(f"{tar_file}: found {files.printable(more[0])}, which no stage wrote; expected {expected}")
    results.require_unchanged(folder, index)
    return index


def check(folder: Path, index: results.Index, cfg: config.Config) -> None:
    """Raise ValueError or RuntimeError where the unpacked results are not for this workspace."""
    name = index["target"]
    target, there = cfg.targets[name], results.Layout(folder, name)
    with_engine = "engine" in index["stages"]
    again = f"measure again with a new kit: make kit TARGET={name}"
    content = files.read_json(there.engine / manifest.NAME)
    _, built_for = manifest.target_of(there.engine)
    for field in fields(config.Target):
        wanted, found = (config.plain(getattr(t, field.name)) for t in (target, built_for))
        same = versions.fits(found, wanted) if field.name == "builder_version" else found == wanted
        if not same:
            raise ValueError(
                f"engine {name} has targets.{name}.{field.name} {found!r}, params.yaml has {wanted!r}; {again}"
            )
    _check_graph(name, content["graph"], description.read(results.graph_folder(target)), again)
    engine_folder = there.engine if with_engine else results.Layout(Path(), name).engine
    engine = engine_folder / Path(str(content["engine"]["file"])).name
    sha256 = files.sha256(engine) if engine.is_file() else "no such file"
    if sha256 != content["engine"]["sha256"]:
        where = "in the results" if with_engine else f"in {engine_folder} of this workspace"
        raise ValueError(
            f"the results are of engine {content['engine']['sha256']}, found {sha256} {where} ({engine.name}); {again}"
        )
    if with_engine:
        _check_build(name, engine_folder, sha256, target.device, again)
    _check_measurement(name, index, cfg, again)
    _check_figures(name, sha256, {s: metric_files.read(there.metrics(s)) for s in index["stages"]}, engine_folder, cfg)


def _check_build(name: str, folder: Path, sha256: str, device: config.Device, again: str) -> None:
    record = build_record.read(folder, sha256)
    if record is None:
        raise ValueError(f"engine {name} has no build.json that is about it, expected one of its build; {again}")
    if record.code_sha256 != build_record.code_sha256(device):
        raise ValueError(
            f"engine {name} was built by other code (commit {_commit(record.commit, record.dirty)}) than that of the "
            f"engine stage here; {again}"
        )


def _check_measurement(name: str, index: results.Index, cfg: config.Config, again: str) -> None:
    here = results.measured_by(Path(), cfg)
    for stage in results.MEASURED:
        found = index["stages"][stage]
        if found["code_sha256"] != here["code_sha256"]:
            raise ValueError(
                f"engine {name} was measured by other code (commit {_commit(found['commit'], found['dirty'])}) than "
                f"that of `{stage}` here; {again}"
            )
        if found["inputs"] != here["inputs"]:
            raise ValueError(
                f"engine {name} was measured on another validation set or with other maps of the checkpoint than "
                f"{results.COCO} and {results.PREDICTIONS} here; {again}"
            )
    if (found := index["stages"]["benchmark"])["parameters"] != here["parameters"]:
        raise ValueError(
            f"engine {name} was timed with benchmark {found['parameters']}, params.yaml has {here['parameters']}; "
            f"{again}"
        )


def _commit(commit: str, dirty: bool) -> str:
    return (commit[:12] or "unknown") + (" with changes" if dirty else "")


def _check_profile(name: str, cfg: config.Config) -> None:
    if name not in cfg.targets:
        raise ValueError(
            f"these are results of target {name}, params.yaml has {', '.join(cfg.targets)}; add it to the profile "
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
    """`metrics` are the figures by stage."""
    for stage, figures in metrics.items():
        if figures.get("engine_sha256") != sha256:
            raise ValueError(
                f"{stage}_{name}.json has figures of engine {figures.get('engine_sha256')}, the engine is {sha256}; "
                "run the kit's commands on its machine and pack nothing by hand"
            )
    if "engine" in metrics and metrics["engine"] != manifest.facts(engine_folder):
        raise ValueError(f"engine_{name}.json is not what engine.json says; build it again on its machine")
    verified = metrics["verify"]
    pictures = len(panoptic.read(results.COCO).entries)
    if verified["pictures"] != pictures:
        raise ValueError(
            f"engine {name} was verified on {verified['pictures']} pictures, the validation set has {pictures}; "
            f"measure again with a new kit: make kit TARGET={name}"
        )
    verify.require_agreement(name, verified, cfg.verify, {})


def main() -> None:
    """Command line of `make import-results`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("file", type=Path, help="results that a kit or `make engine` wrote")
    tar_file = parser.parse_args().file
    tar_file.stat()  # Before a folder is made.
    if signers := signing.signers():
        print(f"{tar_file}: signed by {signing.require_file(tar_file, signers)}")
    cfg = config.load()
    Path("outputs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import", dir="outputs") as scratch:
        folder = Path(scratch)
        index = unpack(tar_file, folder)
        name = index["target"]
        _check_profile(name, cfg)
        here, there = results.Layout(Path(), name), results.Layout(folder, name)
        with_engine = "engine" in index["stages"]
        source = results.graph_folder(cfg.targets[name]) if with_engine else here.engine
        with dvc_project.opened() as repo:
            pipeline_state.require_fresh(repo, source, "import the results")
        check(folder, index, cfg)
        moves = [(there.metrics(stage), here.metrics(stage)) for stage in index["stages"]]
        moves += [(there.maps, here.maps), *([(there.engine, here.engine)] if with_engine else [])]
        for path, out in moves:
            with files.atomic_write(out) as draft:
                shutil.move(path, draft)
    stages = [f"{stage}@{name}" for stage in index["stages"]]
    subprocess.run(["dvc", "commit", "--quiet", "--force", *stages], check=True)
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, stages)
    machine = metric_files.read(here.metrics("benchmark"))["host"]["name"]
    what = "built and measured" if with_engine else "measured"
    print(
        f"engine {name}, {what} on {machine}: imported. Next: make all (its figures go into the report), make push, and"
    )
    print(f"  git add dvc.lock data/metrics && git commit -m 'Engine {name}'")


if __name__ == "__main__":
    command_line.run(main)
