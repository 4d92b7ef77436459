from pathlib import Path

import numpy as np
import pytest

from stages.graph import reference


@pytest.mark.parametrize("spoiled", reference.OUTPUTS)
def test_nan_in_either_output_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    values = {name: np.zeros((1, 2), np.float32) for name in reference.OUTPUTS}
    np.savez(tmp_path / "r.npz", frames=np.zeros((1, 1, 1, 3), np.uint8), **values)
    answers = [np.full((1, 2), np.nan if name == spoiled else 0, np.float32) for name in reference.OUTPUTS]
    monkeypatch.setattr(reference, "run", lambda *_: answers)
    difference = reference.largest_difference(tmp_path / "x.onnx", tmp_path / "r.npz")
    assert np.isnan(difference)
    with pytest.raises(RuntimeError, match=r"deploy\.max_logit_difference"):
        reference.require_equal(tmp_path / "x.onnx", difference, 0.01)


def test_the_limit_is_the_limit(tmp_path: Path) -> None:
    reference.require_equal(tmp_path / "x.onnx", 0.01, 0.01)
    with pytest.raises(RuntimeError, match=r"differs from TAO.s network by 0\.02"):
        reference.require_equal(tmp_path / "x.onnx", 0.02, 0.01)
