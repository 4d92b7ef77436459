"""What a board reads before it loads an engine: engine.json, graph.json, and the file of an engine of our kernels."""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stages import config
from stages.engines import manifest
from stages.engines.cuda import bundle, gpu
from stages.engines.cuda.launch import Launch
from stages.inference import description, steps
from stages.inference.description import Description
from stages.inference.steps import Attributes, Constants, KernelCall, TensorSpec
from stages.releases import manifest as release
from tests.support import fuzz
from tests.support.fuzz import fuzzed

GPU = gpu.Gpu("a GPU", "8.6", "580.65.06", "13.0")
TARGET = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
SPECS = {"x": TensorSpec((1, 4), "float32"), "w": TensorSpec((4,), "float16"), "y": TensorSpec((1, 4), "float32")}
CALL = KernelCall("Cast", Attributes({"to": 1}), ("x", "w"), ("y",), SPECS)
LAUNCH = Launch("cast", (1, 1, 1), (32, 1, 1), ("i0", "i1", "o0", "w0"), 16)
PLANS = {kind: bundle.KernelPlan(f"{kind}/cast", (LAUNCH,), (64,)) for kind in ("8.6", "9.0", "ptx")}


def graph() -> Description:
    categories: Any = [
        {"id": 1, "name": "car", "isthing": 1, "color": [1, 2, 3]},
        {"id": 2, "name": "road", "isthing": 0},
    ]
    deploy: Any = config.plain(config.Deploy())
    constants = Constants("constants.npz", sha256(b"constants"))
    return Description(deploy, "cuda", categories, {"a": "b"}, "fp16", sha256(b"onnx"), [constants, CALL])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def engine_json() -> str:
    with fuzz.folder() as folder:
        (folder / "model.onnx").write_bytes(b"engine")
        manifest.write(folder, "cpu", folder / "model.onnx", graph(), TARGET)
        return (folder / manifest.NAME).read_text()


@fuzzed(80, changes=st.just([]) | fuzz.swaps, edits=st.just([]) | fuzz.edits)
def test_an_engine_json(changes: Any, edits: Any) -> None:
    content = json.dumps(fuzz.reshaped(json.loads(engine_json()), changes))
    with fuzz.folder() as folder:
        (folder / "model.onnx").write_bytes(b"engine")
        (folder / manifest.NAME).write_bytes(fuzz.spoiled(content.encode(), edits))
        fuzz.outcome(lambda: manifest.target_of(folder))
        found = fuzz.outcome(lambda: manifest.verified_engine(folder, "cpu", TARGET))
        assert found is not None or changes or edits
        if found is not None:
            assert found.sha256 == sha256(b"engine")
            fuzz.outcome(lambda: found.description.config)


@fuzzed(80, changes=st.just([]) | fuzz.swaps, edits=st.just([]) | fuzz.edits)
def test_a_graph_json(changes: Any, edits: Any) -> None:
    content = json.dumps(fuzz.reshaped(json.loads(json.dumps(asdict(graph()))), changes))
    with fuzz.folder() as folder:
        (folder / "graph.onnx").write_bytes(b"onnx")
        (folder / "constants.npz").write_bytes(b"constants")
        (folder / description.NAME).write_bytes(fuzz.spoiled(content.encode(), edits))
        found = fuzz.outcome(lambda: description.read(folder))
        if not changes and not edits:
            assert found == graph()
        if found is not None:
            fuzz.outcome(lambda: found.config)


arrays = st.dictionaries(
    st.text(max_size=5),
    st.tuples(st.lists(st.integers(1, 5), max_size=3), st.sampled_from(steps.DTYPES), st.integers(0, 99)),
    max_size=4,
)


def made(path: Path, constants: dict[str, Any]) -> None:
    code = {plan.code: plan.code.encode() * 3 for plan in PLANS.values()}
    bundle.write(path, "12.6", ["8.6", "9.0"], [bundle.kernel_step(CALL, PLANS)], code, constants)


@fuzzed(40, about=arrays)
def test_constants_and_code_are_read_as_they_were_written(about: Any) -> None:
    constants = {
        name: np.random.default_rng(number).integers(0, 2, shape).astype(dtype)
        for name, (shape, dtype, number) in about.items()
    }
    with fuzz.folder() as folder:
        made(folder / "a.cuda", constants)
        if not constants:
            return
        found = bundle.read(folder / "a.cuda", GPU)
        bundle.require_described(folder / "a.cuda", [CALL])
        assert found.code == {"8.6/cast": b"8.6/cast" * 3}
        assert found.constants.keys() == constants.keys()
        for name, array in constants.items():
            place = found.constants[name]
            data = found.data[place.offset : place.offset + place.spec.size_bytes]
            np.testing.assert_array_equal(np.frombuffer(data, place.spec.dtype).reshape(array.shape), array)


@cache
def whole() -> bytes:
    with fuzz.folder() as folder:
        made(folder / "a.cuda", {"w": np.arange(4, dtype=np.float16), "v": np.ones((2, 3), np.float32)})
        return (folder / "a.cuda").read_bytes()


def with_header(changes: Any, method: int) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole())) as source, zipfile.ZipFile(written, "w", method) as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == bundle.HEADER:
                content = json.dumps(fuzz.reshaped(json.loads(content), changes)).encode()
            copy.writestr(name, content)
    return written.getvalue()


@fuzzed(150, changes=st.just([]) | fuzz.swaps, edits=st.just([]) | fuzz.edits, method=st.sampled_from([0, 0, 0, 8]))
def test_the_file_of_an_engine_of_our_kernels(changes: Any, edits: Any, method: int) -> None:
    content = fuzz.spoiled(with_header(changes, method) if changes else whole(), edits)
    with fuzz.folder() as folder:
        path = folder / "a.cuda"
        path.write_bytes(content)
        fuzz.outcome(lambda: bundle.require_described(path, [CALL]))
        found = fuzz.outcome(lambda: bundle.read(path, GPU))
        if found is not None:
            for constant in found.constants.values():
                assert 0 <= constant.offset <= constant.offset + constant.spec.size_bytes <= len(found.data)
            for kernel in found.kernels:
                assert kernel.plan.code in found.code
                for launch in kernel.plan.launches:
                    assert 1 <= int(np.prod(launch.block)) <= 1024


@fuzzed(40, content=fuzz.values | st.just({"format": 1, "commit": "a"}), edits=st.just([]) | fuzz.edits)
def test_the_manifest_of_a_release(content: Any, edits: Any) -> None:
    written = fuzz.spoiled(json.dumps(content).encode(), edits)
    found = fuzz.outcome(lambda: release.parse(written, "v1:manifest.json"))
    if found is not None:
        assert release.differences(found, found) == []
        release.differences(found, {"format": 1, "commit": "b"})
