from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages import config
from stages.foundation import picture_files
from stages.inference import frames
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD


def deploy(frame: tuple[int, int], **changes: Any) -> config.Deploy:
    return config.Deploy(frame_height_px=frame[0], frame_width_px=frame[1], **changes)


def test_fit_keeps_the_aspect_ratio_and_pads_below_and_right() -> None:
    picture = np.full((100, 400, 3), 200, np.uint8)
    padded, used = frames.fit(picture, deploy((64, 128)))
    assert padded.shape == (64, 128, 3)
    assert used == (32, 128)
    assert (padded[:32] == 200).all()
    assert (padded[32:] == 0).all()


def test_fit_of_the_right_size_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    padded, used = frames.fit(picture, deploy((64, 96)))
    assert used == (64, 96)
    assert np.array_equal(padded, picture)


@pytest.mark.parametrize(
    ("frame", "resize", "expected"),
    [
        ((720, 1280), config.Resize.pad, (720, 1280)),
        ((360, 640), config.Resize.pad, (720, 1280)),
        ((1280, 1280), config.Resize.pad, (736, 736)),
        ((1280, 1280), config.Resize.stretch, (736, 1280)),
    ],
)
def test_what_a_frame_takes_of_the_input(
    frame: tuple[int, int], resize: config.Resize, expected: tuple[int, int]
) -> None:
    assert frames.fitted_size(frame, (736, 1280), resize) == expected


@pytest.mark.parametrize("resize", config.Resize)
def test_network_input_is_what_the_fused_graph_computes(resize: config.Resize) -> None:
    cfg = deploy((50, 90), height_px=64, width_px=96, resize=resize)
    batch = np.random.default_rng(1).integers(0, 256, (2, 50, 90, 3), np.uint8)
    found = frames.network_input(batch, cfg)
    pixels = torch.from_numpy(batch).float().permute(0, 3, 1, 2)
    size = frames.fitted_size((50, 90), (64, 96), resize)
    scaled = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    padded = F.pad(scaled, (0, 96 - size[1], 0, 64 - size[0])) / 255
    expected = (padded - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_a_map_comes_back_to_the_picture() -> None:
    cfg = deploy((40, 60), height_px=64, width_px=96)
    labels = np.zeros((40, 60), np.int32)
    labels[:30, :60] = np.arange(60)  # the picture is 1:2
    back = frames.to_picture(labels, (30, 60), (60, 120), cfg)
    assert back.shape == (60, 120)
    assert np.array_equal(back[0], np.repeat(np.arange(60), 2))
    cfg.graph = config.GraphKind.tao
    at_input = np.zeros((64, 96), np.int32)
    at_input[:, 48:] = 7
    back = frames.to_picture(at_input, (40, 60), (40, 60), cfg)
    assert back.shape == (40, 60)
    assert (back[:, :30] == 0).all()
    assert (back[:, 30:] == 7).all()


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        picture_files.read_rgb(path)
