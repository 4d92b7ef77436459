"""TAO's network with random weights."""

import warnings
from pathlib import Path
from typing import Any

import torch

from stages import config

CLASSES = 116


def random_tao(folder: Path, cfg: config.Config, seed: int = 0) -> Any:
    """Build TAO's network for CLASSES classes with random weights, sharpened so that it finds segments.

    Writes its spec to `folder`. Needs the fixture `tao_wheel`.
    """
    from omegaconf import OmegaConf

    from stages.tao import spec, wheel

    OmegaConf.save(spec.train_spec(folder, CLASSES, cfg), folder / "spec.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        net = wheel.build_network(folder / "spec.yaml").eval()
    predictor: Any = net.sem_seg_head.predictor
    with torch.no_grad():
        predictor.class_embed.weight.mul_(80)
        predictor.mask_embed.layers[-1].weight.mul_(5)
    return net
