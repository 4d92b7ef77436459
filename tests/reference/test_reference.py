from pathlib import Path

import numpy as np
import pytest

from stages import config
from stages.inference.description import Description
from stages.inference.segments import Segments
from stages.reference import comparison

CFG = config.Deploy(max_logit_difference=0.01, min_pixel_agreement_pct=90)
IDS = np.array([[1, 1, 2, 2]], np.int32)


@pytest.fixture
def reference_file(tmp_path: Path) -> Path:
    path = tmp_path / "r.npz"
    frames, logits = np.zeros((1, 1, 4, 3), np.uint8), np.zeros((1, 2), np.float32)
    comparison.save(path, frames, logits, logits, [Segments(IDS, {1: 5, 2: 6})])
    return path


def answer(monkeypatch: pytest.MonkeyPatch, classes: float, masks: float, ids: np.ndarray = IDS) -> Description:
    logits = [np.full((1, 2), value, np.float32) for value in (classes, masks)]
    found = comparison.Answer(*logits, [Segments(ids, {1: 5, 2: 6})])
    monkeypatch.setattr(comparison, "run", lambda *_: found)
    return Description(config.plain(CFG), "onnx_gather", [])


@pytest.mark.parametrize("spoiled", [(np.nan, 0.0), (0.0, np.nan)])
def test_nan_in_either_output_is_a_difference(
    reference_file: Path, monkeypatch: pytest.MonkeyPatch, spoiled: tuple[float, float]
) -> None:
    found = comparison.check(None, reference_file, answer(monkeypatch, *spoiled), comparison.differences)
    assert np.isnan(found["logit_difference_p99"])
    with pytest.raises(RuntimeError, match=r"deploy\.max_logit_difference"):
        comparison.require_equal(reference_file, found, CFG)


def test_the_limit_is_the_limit(reference_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = comparison.check(None, reference_file, answer(monkeypatch, 0.009, -0.009), comparison.differences)
    assert found["pixel_agreement_pct"] == 100
    comparison.require_equal(reference_file, found, CFG)
    found = comparison.check(None, reference_file, answer(monkeypatch, 0.0, -0.02), comparison.differences)
    with pytest.raises(RuntimeError, match=r"differs from TAO.s network by 0\.0199"):
        comparison.require_equal(reference_file, found, CFG)


def test_another_map_is_a_difference(reference_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = comparison.check(
        None, reference_file, answer(monkeypatch, 0, 0, np.array([[1, 1, 2, 1]], np.int32)), comparison.differences
    )
    assert found["pixel_agreement_pct"] == 75
    with pytest.raises(RuntimeError, match=r"75\.0000 % of pixels, expected .* deploy\.min_pixel_agreement_pct 90"):
        comparison.require_equal(reference_file, found, CFG)


def test_a_plugin_graph_is_said_not_to_be_compared(reference_file: Path) -> None:
    found = comparison.check(
        None, reference_file, Description(config.plain(CFG), "onnx_plugin_v1", []), comparison.differences
    )
    assert "not on this host" in found["compared"]
    comparison.require_equal(reference_file, found, CFG)
