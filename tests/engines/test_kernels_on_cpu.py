"""The arithmetic of our CUDA kernels without a GPU: their own source, compiled by g++, against PyTorch's answer."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.inference.steps import Attributes
from stages.operators import registry
from tests.support import cuda_on_cpu, kernel_cases

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def answer(name: str, attributes: dict[str, Any], inputs: list[Any]) -> list[Any]:
    found = registry.compute(name, Attributes(attributes), [torch.from_numpy(array) for array in inputs])
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize("case", kernel_cases.PATCHES[1:])
def test_patch_embedding(case: Any, tmp_path: Path) -> None:
    attributes, inputs = kernel_cases.patches(*case, "float32")
    (found,) = cuda_on_cpu.run("PatchEmbedding", attributes, inputs, tmp_path)
    (expected,) = answer("PatchEmbedding", attributes, inputs)
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("case", kernel_cases.MERGED)
def test_semantic_merge(case: Any, tmp_path: Path) -> None:
    attributes, inputs = kernel_cases.merged(*case, "float32")
    (found,) = cuda_on_cpu.run("SemanticMerge", attributes, inputs, tmp_path)
    (expected,) = answer("SemanticMerge", attributes, inputs)
    assert len(np.unique(expected)) > 2
    assert (found == expected).mean() >= 0.9999


@pytest.mark.parametrize("case", kernel_cases.MERGED)
@pytest.mark.parametrize("top_k", [1, 20])
def test_instance_merge(case: Any, top_k: int, tmp_path: Path) -> None:
    sizes, inputs = kernel_cases.merged(*case, "float32")
    attributes = {**sizes, "top_k": top_k}
    mask_bits, scores, category_ids = cuda_on_cpu.run("InstanceMerge", attributes, inputs, tmp_path)
    expected = answer("InstanceMerge", attributes, inputs)
    assert (np.unpackbits(mask_bits) == np.unpackbits(expected[0])).mean() >= 0.9999
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(category_ids, expected[2])


def test_pairs_with_the_same_probability_are_in_order(tmp_path: Path) -> None:
    sizes, (class_logits, mask_logits) = kernel_cases.merged(*kernel_cases.MERGED[2], "float32")
    inputs = [np.zeros_like(class_logits), mask_logits]
    _, _, category_ids = cuda_on_cpu.run("InstanceMerge", {**sizes, "top_k": 21}, inputs, tmp_path)
    assert category_ids.tolist() == [[1, 2, 3] * 7] * 2


@pytest.mark.parametrize("case", kernel_cases.MERGED[:3])
def test_panoptic_merge(case: Any, tmp_path: Path) -> None:
    sizes, inputs = kernel_cases.merged(*case, "float32")
    attributes = {**sizes, "things": 2, "score_threshold": 0.6, "overlap_threshold": 0.6}
    found = cuda_on_cpu.run("PanopticMerge", attributes, inputs, tmp_path)
    expected = answer("PanopticMerge", attributes, inputs)
    assert (found[0] == expected[0]).mean() >= 0.9999
    assert (expected[1] > 0).any()
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3 * found[0][0].size)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-5)
    np.testing.assert_array_equal(found[3], expected[3])
