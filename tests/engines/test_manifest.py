"""engine.json of an engine that nothing has built: its content and its checks. See also test_engines.py."""

import importlib.util
import platform
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.engines import manifest
from stages.engines.cuda import gpu
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
        ({"graph": {"steps": [{"part": "p.engine"}]}}, r"graph is not the content of a graph\.json: step 0: kind must"),
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


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_builder_that_is_not_installed() -> None:
    board = config.Target(
        builder=config.Builder.tensorrt, builder_version="10.3", architecture=platform.machine(),
        device=config.Device.cuda, compute_capabilities=["8.6", "8.7"],
    )  # fmt: skip
    wanted = r"^target board needs tensorrt 10\.3 and a GPU of compute capability 8\.6 or 8\.7: .*; or run `make engine"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        manifest.check_host("board", board)
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):
        manifest.check_run_host("board", board)


NEEDS = r"^target gpu needs a GPU of compute capability 8\.6, or a later one, found "
ADA = gpu.Gpu("NVIDIA RTX 6000 Ada", "8.9", "580.1", "13.0")
TURING = gpu.Gpu("NVIDIA T4", "7.5", "580.1", "13.0")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            None,
            r"^target gpu needs a GPU of compute capability 8\.6, or a later one, found no NVIDIA GPU or no driver; ",
        ),
        (TURING, r"^target gpu needs a GPU of compute capability 8\.6, or a later one, found 7\.5 \(NVIDIA T4\); "),
        (ADA, ""),
    ],
)
def test_an_engine_of_our_kernels_runs_on_its_gpu_and_later_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch, found: gpu.Gpu | None, message: str
) -> None:
    monkeypatch.setattr(gpu, "current", lambda: found)
    kernels = config.Target(
        builder=config.Builder.cuda, builder_version="13.0", device=config.Device.cuda, architecture="any",
        compute_capabilities=["8.6"], variant=config.Variant.cuda,
    )  # fmt: skip
    manifest.write(folder, "gpu", folder / "cpu.onnx", described(), kernels)
    if not message:
        manifest.check_run_host("gpu", kernels)
        assert manifest.verified_engine(folder, "gpu", kernels).sha256
        return
    with pytest.raises(RuntimeError, match=message + r"run `make engine TARGET=gpu` on such a machine \(docs/targets"):
        manifest.check_run_host("gpu", kernels)
    with pytest.raises(RuntimeError, match=message + r"run it on such a machine$"):
        manifest.verified_engine(folder, "gpu", kernels)


def test_an_engine_of_tensorrt_runs_on_the_gpus_that_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "current", lambda: ADA)
    target = config.Target(
        builder=config.Builder.tensorrt_rtx, builder_version="1.7",
        device=config.Device.cuda, compute_capabilities=["8.6", "8.9"],
    )  # fmt: skip
    manifest.check_run_host("rtx", target)
    target.compute_capabilities = ["7.5", "8.6"]
    needs = r"needs a GPU of compute capability 7\.5 or 8\.6, found 8\.9 \(NVIDIA RTX 6000 Ada\); run `make engine"
    with pytest.raises(RuntimeError, match=needs):
        manifest.check_run_host("rtx", target)


def arm_core(number: int, implementer: str, part: str, more: str = "") -> str:
    """A core in Arm's /proc/cpuinfo, as Linux prints it (arch/arm64/kernel/cpuinfo.c)."""
    return (
        f"processor\t: {number}\n{more}BogoMIPS\t: 62.50\nCPU implementer\t: {implementer}\nCPU architecture: 8\n"
        f"CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


JETSON = "model name\t: ARMv8 Processor rev 1 (v8l)\n"
"""A line that Jetson's kernel adds to each core. It says nothing."""
PLATFORM = platform.processor() or platform.machine()


@pytest.mark.parametrize(
    ("cpuinfo", "board", "expected"),
    [
        ("processor\t: 0\nmodel name\t: EPYC: 64\n\nprocessor\t: 1\nmodel name\t: EPYC: 64\n", "", "EPYC: 64"),
        ("model name\t: EPYC \xae\n", "", "EPYC \N{REPLACEMENT CHARACTER}"),
        (arm_core(0, "0x41", "0xd0c"), "", "Arm Neoverse-N1"),
        (
            "".join(arm_core(number, "0x41", "0xd42", JETSON) for number in range(12)),
            "NVIDIA Jetson AGX Orin Developer Kit\0",
            "NVIDIA Jetson AGX Orin Developer Kit, Arm Cortex-A78AE",
        ),
        (
            "".join(arm_core(number, "0x41", part) for number, part in enumerate(["0xd85", "0xd87", "0xd85"])),
            "",
            "Arm Cortex-X925, Arm Cortex-A725",
        ),
        (arm_core(0, "0x99", "0x123"), "", "Arm implementer 0x99 part 0x123"),
        ("nothing known\n", "", PLATFORM),
    ],
)
def test_a_cpu_is_named(tmp_path: Path, cpuinfo: str, board: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_bytes(cpuinfo.encode("latin-1"))
    if board:
        (tmp_path / "device-tree").mkdir()
        (tmp_path / "device-tree/model").write_text(board)
    assert manifest.cpu_model(tmp_path) == expected
    assert manifest.cpu_model(tmp_path / "none") == PLATFORM
