"""The manifest of a release: hashes from the raw data to the engines, parameters, versions, figures and licences.

It is derived from one commit alone: nothing in it depends on the machine or the time. Who has the commit and the
artifacts can derive it again and compare.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.foundation import text
from stages.releases.source import Output, Source

FORMAT = 1
"""Version of the manifest's form. A release is checked by code that writes the same form."""
LICENCES = "conf/licences.yaml"
GRAPHS, CHECKPOINT, LABEL_MAP = "data/onnx", "data/checkpoint", "data/coco/label_map.json"
Json = dict[str, Any]


def derive(source: Source, version: str, date: str) -> Json:
    """Derive the manifest of a commit; `date` is the commit's, in ISO 8601. `files` is added by the caller.

    Raises ValueError where the artifacts are not of one build, or where an engine has no entry in `artifacts` of
    dvc.yaml, and RuntimeError for a file that is in no cache and in no remote.
    """
    params = _yaml(source, "params.yaml")
    project = tomllib.loads(source.read("pyproject.toml").decode())["project"]
    released = {name: found for name, found in source.artifacts.items() if found.path in source.outputs}
    _require_artifacts(params["targets"], {found.path for found in released.values()})
    graphs = {_graph_folder(target) for target in params["targets"].values()}
    graphs |= {found.path for found in released.values() if found.path.startswith(f"{GRAPHS}/")}
    content: Json = {
        "format": FORMAT,
        "project": project["name"],
        "version": version,
        "commit": source.commit,
        "date": date,
        "profile": params["profile"],
        "raw_data": _raw_data(source, params),
        "outputs": {path: _recorded(found) for path, found in source.outputs.items()},
        "artifacts": {
            name: {
                "path": found.path,
                "type": found.type,
                "labels": found.labels,
                "description": found.description,
                "files": _files(source, found.path),
            }
            for name, found in sorted(released.items())
        },
        "provenance": source.read_json(f"{CHECKPOINT}/provenance.json"),
        "graphs": {folder: _graph(source, folder) for folder in sorted(graphs)},
        "engines": {name: _engine(source, name) for name in sorted(params["targets"])},
        "metrics": _metrics(source, params["targets"]),
        "licences": _licences(source, params, str(project["license"])),
        "versions": _versions(source),
        "parameters": params,
    }
    if problems := broken_links(content, source.sha256(LABEL_MAP)[0]):
        raise ValueError(f"the artifacts are not of one build: {'; '.join(problems)}; run `make all`")
    return content


def parse(content: bytes, name: str) -> Json:
    """Parse a manifest. Raises ValueError, one line that has `name`, for anything but an object that names a commit."""
    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error}); fetch the tag again") from error
    if not isinstance(found, dict) or not isinstance(found.get("commit"), str):
        raise ValueError(f"{name}: expected an object with the commit of a release; fetch the tag again")
    return found


def broken_links(manifest: Json, label_map_sha256: str) -> list[str]:
    """Return a sentence for each hash by which an artifact does not name the one that it was made from."""
    provenance, found = manifest["provenance"], list[str]()

    def same(what: str, named: object, actual: object) -> None:
        if named != actual:
            found.append(f"{what} is {actual}, expected {named}")

    checkpoint = next(a for a in manifest["artifacts"].values() if a["path"] == CHECKPOINT)["files"]
    same("model.pth", provenance.get("checkpoint_sha256"), checkpoint["model.pth"]["sha256"])
    same("the label map", provenance.get("label_map_sha256"), label_map_sha256)
    for folder, graph in manifest["graphs"].items():
        same(f"{folder}/graph.onnx", graph["sha256"], graph["file_sha256"])
        same(f"the checkpoint of {folder}", graph["checkpoint_sha256"], provenance.get("checkpoint_sha256"))
    for name, engine in manifest["engines"].items():
        folder = _graph_folder(manifest["parameters"]["targets"][name])
        same(f"the graph of engine {name}", engine["graph_sha256"], manifest["graphs"][folder]["sha256"])
        files = next(a for a in manifest["artifacts"].values() if a["path"] == f"data/engines/{name}")["files"]
        same(f"the file of engine {name}", engine["sha256"], files.get(engine["file"], {}).get("sha256"))
    return found


def differences(manifest: Json, derived: Json) -> list[str]:
    """Return a line for each value in which two manifests differ: its key, both values."""
    ours, theirs = dict(_leaves(manifest)), dict(_leaves(derived))
    missing = object()
    return [
        f"{key}: the manifest has {ours.get(key, 'nothing')!r}, derived {theirs.get(key, 'nothing')!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key, missing) != theirs.get(key, missing)
    ]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{key} > {name}" if key else str(name))
    else:
        yield key, value


def figures(manifest: Json, stem: str, target: str) -> Json | None:
    """Return the metrics `stem`_`target` if they are of the released engine, else None."""
    found: Json | None = manifest["metrics"].get(f"{stem}_{target}")
    return found if found and found.get("engine_sha256") == manifest["engines"][target]["sha256"] else None


def _yaml(source: Source, path: str) -> Any:
    return text.parse_yaml(Path(path), source.read(path).decode())


def _require_artifacts(targets: Mapping[str, Json], paths: set[str]) -> None:
    for path in (CHECKPOINT, *(f"data/engines/{name}" for name in targets)):
        if path not in paths:
            name = path.replace("data/engines/", "engine-").removeprefix("data/")
            line = f"{name}: {{path: {path}, type: model, labels: [...], desc: ...}}"
            raise ValueError(f"{path} has no entry in artifacts of dvc.yaml, by which it is fetched; add `{line}`")


def _graph_folder(target: Mapping[str, Any]) -> str:
    return f"{GRAPHS}/{target['variant']}/{target['precision']}"


def _recorded(found: Output) -> Json:
    return {"stage": found.stage, "md5": found.md5, "bytes": found.bytes, "files": found.files}


def _raw_data(source: Source, params: Json) -> Json:
    root = params["data"]["root"]
    found = source.dependency("convert", root)
    return {root: {"md5": found.md5, "bytes": found.bytes, "files": found.files} if found else None}


def _files(source: Source, path: str) -> Json:
    result = {}
    for name in source.names(path):
        digest, size = source.sha256(f"{path}/{name}")
        result[name] = {"bytes": size, "sha256": digest}
    return result


def _graph(source: Source, folder: str) -> Json:
    about = source.read_json(f"{folder}/graph.json")
    return {
        "variant": about["variant"],
        "precision": about["precision"],
        "sha256": about["sha256"],
        "file_sha256": source.sha256(f"{folder}/graph.onnx")[0],
        "checkpoint_sha256": about["provenance"].get("checkpoint_sha256"),
    }


def _engine(source: Source, name: str) -> Json:
    about = source.read_json(f"data/engines/{name}/engine.json")
    keys = "builder", "builder_version", "architecture", "compute_capabilities", "precision", "variant", "description"
    return {key: about[key] for key in keys} | {**about["engine"], "graph_sha256": about["graph"]["sha256"]}


def _metrics(source: Source, targets: Iterable[str]) -> Json:
    """Return the figures of all stages, and those of engines that ran on other machines and were imported."""
    paths = {path for path in source.outputs if path.startswith("data/metrics/") and path.endswith(".json")}
    ran = (f"data/metrics/{stage}_{name}.json" for name in targets for stage in ("verify", "benchmark"))
    paths |= {path for path in ran if source.exists(path)}
    return {path.removeprefix("data/metrics/").removesuffix(".json"): source.read_json(path) for path in sorted(paths)}


def _licences(source: Source, params: Json, code: str) -> Json:
    """Return what is known: path -> {stated, file}. `stated` is of conf/licences.yaml, `file` one in the set itself."""
    stated = _yaml(source, LICENCES) if source.exists(LICENCES) else {}
    if not isinstance(stated, dict) or not all(isinstance(value, str) and value for value in stated.values()):
        raise ValueError(f"{LICENCES}: must be lines `path: licence`, with a text for each path")
    data, model = params["data"], params["model"]
    roots = {"/".join(filter(None, (data["root"], each["root"]))) for each in data["sources"].values()}
    weights = {model["weights"], model["backbone"]["pretrained_weights"]} - {""}
    result: Json = {"code": {"stated": code, "file": "LICENSE" if source.exists("LICENSE") else None}}
    for path in (*sorted(roots or {data["root"]}), *sorted(weights), CHECKPOINT):
        files = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt")
        found = next((name for name in files if source.exists(f"{path}/{name}")), None)
        result[path] = {"stated": stated.get(path), "file": found and f"{path}/{found}"}
        if found:
            result[path]["sha256"] = source.sha256(f"{path}/{found}")[0]
    return result


def _versions(source: Source) -> dict[str, str]:
    """Return the locked versions of the packages that pyproject.toml names."""
    packages = tomllib.loads(source.read("uv.lock").decode())["package"]
    own = next(package for package in packages if "virtual" in package["source"])
    groups = own.get("optional-dependencies", {}).values()
    names = {each["name"] for group in (own.get("dependencies", []), *groups) for each in group}
    return {package["name"]: package["version"] for package in packages if package["name"] in names}
