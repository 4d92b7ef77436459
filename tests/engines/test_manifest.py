"""engine.json of an engine that nothing has built: its content and its checks. See also test_engines.py."""

import platform
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.engines import manifest
from stages.foundation import files
from stages.inference.description import Description

TARGET = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
KERNELS = config.Target(
    builder=config.Builder.cuda, builder_version="13.0", compute_capabilities=["8.6"], variant=config.Variant.cuda
)


def described(sha256: str = "graph") -> Description:
    return Description(config.plain(config.Deploy()), "onnx", [], {"checkpoint_sha256": "c"}, "fp32", sha256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cpu.onnx").write_bytes(b"engine")
    manifest.write(tmp_path, "cpu", tmp_path / "cpu.onnx", described(), TARGET)
    return tmp_path


def changed(folder: Path, **values: Any) -> Path:
    content = files.read_json(folder / manifest.NAME)
    for key, value in values.items():
        if isinstance(value, dict):
            content[key] |= value
        else:
            content[key] = value
    files.write_json(folder / manifest.NAME, content)
    return folder


def test_facts_are_those_of_engine_and_graph(folder: Path) -> None:
    assert manifest.facts(folder) == {
        "engine_sha256": files.sha256(folder / "cpu.onnx"),
        "file": "cpu.onnx",
        "bytes": 6,
        "builder": "onnxruntime",
        "builder_version": "1.32.0",
        "architecture": platform.machine(),
        "compute_capabilities": [],
        "variant": "onnx",
        "precision": "fp32",
        "graph_sha256": "graph",
        "provenance": {"checkpoint_sha256": "c"},
    }


def test_a_verified_engine_is_its_file_hash_and_graph(folder: Path) -> None:
    found = manifest.verified_engine(folder, "cpu", TARGET)
    assert found == manifest.Engine(folder / "cpu.onnx", files.sha256(folder / "cpu.onnx"), described())


def test_target_of_a_folder(folder: Path) -> None:
    name, target = manifest.target_of(folder)
    assert (name, target.builder, target.builder_version) == ("cpu", TARGET.builder, "1.32.0")
    assert manifest.target_of(changed(folder, description="mine"))[1].description == "mine"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": 1}, r"engine\.json: engine: found 1, expected an object with file, bytes, sha256; {fix}$"),
        ({"target": None}, r"engine\.json: target: found null, expected text; {fix}$"),
        ({"graph": []}, r"engine\.json: graph: found \[\], expected an object; {fix}$"),
    ],
)
def test_another_shape_is_refused_with_the_fix_of_each_reader(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    changed(folder, **values)
    for read, fix in (
        (lambda: manifest.verified_engine(folder, "cpu", TARGET), "run `make engines TARGET=cpu`"),
        (lambda: manifest.target_of(folder), "run `make engines`"),
        (lambda: manifest.facts(folder), "build the engine again"),
    ):
        with pytest.raises(RuntimeError, match=message.replace("{fix}", fix)):
            read()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"builder": "x"}, r"engine\.json is from another version of this project: targets\.cpu\.builder.*; run `make"),
        ({"target": "../x"}, r"engine\.json is from another version of this project: .*; run `make engines`$"),
    ],
)
def test_a_target_of_another_version(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        manifest.target_of(changed(folder, **values))


def test_a_key_that_is_missing_is_of_another_version(folder: Path) -> None:
    content = files.read_json(folder / manifest.NAME)
    del content["precision"]
    files.write_json(folder / manifest.NAME, content)
    with pytest.raises(RuntimeError, match=r"another version of this project: 'precision'; run `make engines`$"):
        manifest.target_of(folder)
    with pytest.raises(
        RuntimeError, match=r"precision must be 'fp32' here, found None; run `make engines TARGET=cpu`$"
    ):
        manifest.verified_engine(folder, "cpu", TARGET)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"engine\.json not found; name the folder of an engine, such as data/engin"):
        manifest.target_of(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"engine\.json not found, so the engine can't be checked; run `make engines"
    ):
        manifest.verified_engine(tmp_path, "cpu", TARGET)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "other"}, r"target must be 'cpu' here, found 'other'"),
        ({"builder": "openvino"}, "builder must be 'onnxruntime' here, found 'openvino'"),
        ({"precision": "fp16"}, "precision must be 'fp32' here, found 'fp16'"),
        ({"variant": "cuda"}, "variant must be 'onnx' here, found 'cuda'"),
        ({"architecture": "riscv"}, r"architecture must be '\w+' here, found 'riscv'"),
        ({"compute_capabilities": ["8.6"]}, r"compute_capabilities must be \[\] here, found \['8\.6'\]"),
        ({"builder_version": "1.31"}, r"builder_version must be '1\.32\.0' here, found '1\.31'"),
        ({"engine": {"file": "no.onnx"}}, r"engine\.file must name a file in .*, found 'no\.onnx'"),
        ({"engine": {"file": "../a"}}, r"engine\.file must name a file in .*, found '\.\./a'"),
        ({"engine": {"file": ".."}}, r"engine\.file must name a file in .*, found '\.\.'"),
        ({"engine": {"sha256": "0"}}, r"cpu\.onnx: SHA-256 [0-9a-f]{64} is not the manifest's 0"),
        ({"graph": {"more": 1}}, r"graph is not the content of a graph\.json: unknown keys \['more'\]"),
    ],
)
def test_what_differs_from_the_target_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{message}.*; run `make engines TARGET=cpu`$"):
        manifest.verified_engine(changed(folder, **values), "cpu", TARGET)


def test_another_architecture_is_refused_first(folder: Path) -> None:
    other = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32", architecture="riscv")
    where = r"target cpu needs the CPU architecture riscv, found \w+; run"
    with pytest.raises(RuntimeError, match=f"^{where} it on such a machine$"):
        manifest.verified_engine(folder, "cpu", other)
    for check in (manifest.check_run_host, manifest.check_host):
        with pytest.raises(RuntimeError, match=rf"^{where} `make engine TARGET=cpu` on such a machine \(docs"):
            check("cpu", other)
    manifest.check_host("cpu", TARGET)
    manifest.check_run_host("cpu", TARGET)


def test_a_version_that_is_not_installed(folder: Path) -> None:
    other = config.Target(builder=config.Builder.onnxruntime, builder_version="1.3")
    with pytest.raises(
        RuntimeError, match=r"^target cpu needs onnxruntime 1\.3, found 1\.32\.0; install that version \("
    ):
        manifest.check_host("cpu", other)
