"""The merge inside the graph against TAO's own post-processing, in all modes."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stages import config
from stages.inference import segments
from stages.inference.segments import VOID_QUERY
from stages.network import merge

NUM_THINGS, CLASSES = 3, 8


def outputs(seed: int, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and mask logits of queries that overlap, compete, share stuff classes and are partly unsure."""
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(0, 1, (queries, 1 + CLASSES)).astype(np.float32)
    class_logits[np.arange(queries), rng.integers(0, 1 + CLASSES, queries)] += rng.uniform(0, 9, queries)
    y, x = np.mgrid[:24, :40]
    middle, reach = rng.uniform((0, 0), (24, 32), (queries, 2)), rng.uniform(2, 8, (queries, 1, 1))
    away = np.hypot(y - middle[:, :1, None], x - middle[:, 1:, None]) / reach
    masks = (6 * (1 - away) + rng.normal(0, 0.5, away.shape)).astype(np.float32)
    return torch.from_numpy(class_logits), torch.from_numpy(masks)


def deploy(mode: config.Mode, frame: tuple[int, int]) -> config.Deploy:
    return config.Deploy(
        mode=mode, height_px=96, width_px=160, frame_height_px=frame[0], frame_width_px=frame[1], top_k=20
    )


@pytest.fixture
def tao(tao_wheel: None) -> Any:
    """A Checkpoint without a network: what it does with the network's output is TAO's."""
    from stages.reference import tao_model

    return tao_model.Checkpoint.__new__(tao_model.Checkpoint)


def run_onnx(cfg: config.Deploy, batch: list[tuple[torch.Tensor, torch.Tensor]], path: Any) -> dict[str, Any]:
    """The exported merge of a batch in ONNX Runtime."""
    module = merge.MERGES[cfg.mode](cfg, NUM_THINGS).eval()
    arguments = tuple(torch.stack([pair[i] for pair in batch]) for i in (0, 1))
    torch.onnx.export(
        module,
        arguments,
        str(path),
        input_names=["class_logits", "mask_logits"],
        output_names=list(module.OUTPUTS),
        opset_version=17,
        dynamo=False,
    )
    assert not {"NonZero", "ScatterND"} & {n.op_type for n in onnx.load(path).graph.node}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = dict(zip(("class_logits", "mask_logits"), (a.numpy() for a in arguments), strict=True))
    return dict(zip(module.OUTPUTS, session.run(None, feed), strict=True))


def answer(tao: Any, cfg: config.Deploy, count: int, path: Any) -> tuple[list[Any], dict[str, Any]]:
    """Outputs of `count` networks, and the graph's answer on them; sets `tao` up to answer on the same ones."""
    tao.use_post_processing(NUM_THINGS, cfg)
    batch = [outputs(seed, 30) for seed in range(count)]
    return batch, run_onnx(cfg, batch, path)


FRAMES = [(96, 160), (90, 160), (150, 200)]
"""Frame sizes (height, width): the network's own; padded below; scaled and padded at the right."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frame", FRAMES)
def test_panoptic_equals_tao(tao: Any, tmp_path: Any, frame: tuple[int, int]) -> None:
    cfg = deploy(config.Mode.panoptic, frame)
    batch, found = answer(tao, cfg, 4, tmp_path / "merge.onnx")
    assert found["query_ids"].dtype == np.uint8
    assert found["query_ids"].shape == (4, *frame)
    kinds = []
    for index, (class_logits, mask_logits) in enumerate(batch):
        expected = tao.merge(cfg.mode, class_logits, tao.at_frame(mask_logits))
        ours = segments.decode(found, index, cfg, NUM_THINGS)
        assert ours.category_ids == expected.category_ids
        assert (ours.ids == expected.ids).mean() >= 0.9999
        logits = {"class_logits": class_logits.numpy()[None], "mask_logits": mask_logits.numpy()[None]}
        on_host = segments.decode(logits, 0, cfg, NUM_THINGS)
        assert on_host.category_ids == expected.category_ids
        assert (on_host.ids == expected.ids).mean() >= 0.9999
        kinds += [c <= NUM_THINGS for c in expected.category_ids.values()]
        scores, classes = class_logits.softmax(-1)[:, 1:].max(-1)
        assert np.abs(found["scores"][index] - scores.numpy()).max() < 1e-5
        assert np.array_equal(found["category_ids"][index], classes.numpy() + 1)
        counted = np.bincount(found["query_ids"][index].ravel(), minlength=VOID_QUERY + 1)
        assert np.array_equal(found["areas"][index], counted[:30])
    assert {True, False} == set(kinds)
    assert len(kinds) >= 12


def test_nothing_found_is_void(tao: Any, tmp_path: Any) -> None:
    cfg = deploy(config.Mode.panoptic, (96, 160))
    class_logits, mask_logits = outputs(0, 5)
    with torch.inference_mode():
        found = merge.Panoptic(cfg, NUM_THINGS)(torch.zeros_like(class_logits)[None], mask_logits[None])
    assert (found[0] == VOID_QUERY).all()
    assert not found[1].any()
    logits = {"class_logits": np.zeros((1, *class_logits.shape), np.float32), "mask_logits": mask_logits.numpy()[None]}
    on_host = segments.decode(logits, 0, cfg, NUM_THINGS)
    assert not on_host.ids.any()
    assert on_host.category_ids == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frame", FRAMES)
def test_semantic_equals_tao(tao: Any, tmp_path: Any, frame: tuple[int, int]) -> None:
    cfg = deploy(config.Mode.semantic, frame)
    batch, found = answer(tao, cfg, 2, tmp_path / "merge.onnx")
    for index, (class_logits, mask_logits) in enumerate(batch):
        expected = tao.merge(cfg.mode, class_logits, tao.at_frame(mask_logits))
        assert (found["class_ids"][index] == expected.ids).mean() >= 0.9999
        assert len(expected.category_ids) > 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frame", [*FRAMES, (96, 155)])
def test_instances_equal_tao(tao: Any, tmp_path: Any, frame: tuple[int, int]) -> None:
    cfg = deploy(config.Mode.instance, frame)
    batch, found = answer(tao, cfg, 2, tmp_path / "merge.onnx")
    assert found["mask_bits"].shape == (2, 20, frame[0], -(-frame[1] // 8))
    for index, (class_logits, mask_logits) in enumerate(batch):
        masks, scores, categories = tao.instances(class_logits, tao.at_frame(mask_logits))
        ours = np.unpackbits(found["mask_bits"][index], axis=-1, count=frame[1]).astype(bool)
        order, our_order = np.argsort(-scores), np.argsort(-found["scores"][index])
        assert np.abs(found["scores"][index][our_order] - scores[order]).max() < 1e-5
        assert np.array_equal(found["category_ids"][index][our_order], categories[order])
        assert (ours[our_order] == masks[order]).mean() >= 0.9999
        drawn = segments.decode(found, index, cfg, NUM_THINGS)
        expected = segments.instances(masks, scores, categories, cfg)
        assert drawn.category_ids == expected.category_ids
        assert (drawn.ids == expected.ids).mean() >= 0.9999
