"""Engines of our kernels on a GPU: built without it, loaded, and answering as PyTorch does. Needs NVRTC and torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import config, engine
from stages.engines import interface, manifest
from stages.engines.cuda import driver, gpu
from stages.inference import description

torch = pytest.importorskip("torch")

from stages.onnx_graph import artifact, kernels  # noqa: E402  # all of these need torch
from stages.operators import registry  # noqa: E402
from tests.engines.test_kernels import network  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    artifact.save(network(), folder, description.Description({}, "cuda", [{"id": 1, "name": "car", "isthing": 1}]))
    return folder


def target_of(*compute_capabilities: str) -> config.Target:
    target = config.Target(
        builder=config.Builder.cuda, builder_version="13", cuda_major=13, architecture="any",
        device=config.Device.cuda, compute_capabilities=[*compute_capabilities], variant=config.Variant.cuda,
    )  # fmt: skip
    target.check("here")
    return target


def frames(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (1, 12, 100, 3), dtype=np.uint8)


def by_pytorch(batch: Any) -> dict[str, Any]:
    """The outputs of the graph, node by node."""
    model = network()
    tensors = {"frame": torch.from_numpy(batch)}
    tensors |= {name: torch.from_numpy(array) for name, array in kernels.constants(model).items()}
    for node in kernels.calls(model):
        inputs = [tensors[name] for name in node.input]
        tensors |= dict(zip(node.output, registry.compute(node.op_type, kernels.attributes(node), inputs), strict=True))
    return {output.name: tensors[output.name].numpy() for output in model.graph.output}


@pytest.mark.parametrize("ptx", [False, True])
def test_an_engine_answers_as_pytorch_does(tmp_path: Path, graph: Path, ptx: bool) -> None:
    found = gpu.current()
    assert found is not None, "these tests need an NVIDIA GPU"
    target = target_of((os.environ["PTX_OF"] or "7.5") if ptx else found.compute_capability)
    engine.build(graph, tmp_path / "here", "here", target, tmp_path / "cache", tmp_path / "metrics.json")
    path = manifest.verified_engine(tmp_path / "here", "here", target).path
    loaded = interface.backend(target).load(path, target)
    for seed in range(3):
        answer, expected = loaded.infer(frames(seed)), by_pytorch(frames(seed))
        assert answer.keys() == expected.keys()
        np.testing.assert_array_equal(answer["category_ids"], expected["category_ids"])
        np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-3)
        assert (answer["query_ids"] == expected["query_ids"]).mean() >= 0.99
        assert (expected["areas"] > 0).any()
    several = interface.backend(target).load(path, target, in_flight=3)
    for seed in range(3):
        several.submit(frames(seed))
    for seed in range(3):
        found_here, alone = several.result(), loaded.infer(frames(seed))
        for name, array in alone.items():
            np.testing.assert_array_equal(found_here[name], array)
    with pytest.raises(ValueError, match=r"takes uint8 \[1, 12, 100, 3\]"):
        loaded.infer(np.zeros((1, 12, 64, 3), np.uint8))
    loaded.close()
    with pytest.raises(RuntimeError, match="closed"):
        loaded.infer(frames(0))


def test_code_that_the_driver_refuses_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"cuModuleLoadData: .* \(CUDA error \d+\)"):
        driver.Module(b"\x7fELF not machine code")
