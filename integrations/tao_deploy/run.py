"""run: evaluate an engine of the graph `tao`, or draw its maps, by NVIDIA's wheel nvidia-tao-deploy.

    python run.py outputs/tao_deploy/spec.yaml

`make tao-deploy` writes the spec. Its model.mode decides: semantic is evaluated, the others draw the pictures of
dataset.test. Needs the wheel with TensorRT and PyCUDA, as in TAO Deploy's container or in scripts/tao_deploy. Two
modules that it imports and hardly uses get stand-ins where they are missing: panopticapi is not on PyPI, and
nvidia-tao-core is a service.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np

STATUS = "nvidia_tao_core.microservices.handlers.cloud_handlers.utils"
"""Has status_callback, which tells NVIDIA's cloud service about a run there."""


def prepare() -> None:
    """Supply the modules that are missing."""
    if importlib.util.find_spec("nvidia_tao_core") is None:
        supply(STATUS).status_callback = lambda *_: None
    if importlib.util.find_spec("panopticapi") is None:
        supply("panopticapi.utils").rgb2id = rgb_to_id


def supply(name: str) -> Any:
    """Make an empty module with its packages and return it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    return sys.modules[name]


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Segment ids of a PNG of COCO panoptic, uint8 [H, W, 3]: R + 256 G + 65536 B, int32 [H, W]."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def run(spec: str) -> None:
    """Run the wheel's `evaluate` or `inference` with a spec."""
    from omegaconf import OmegaConf

    schema = importlib.import_module("nvidia_tao_deploy.config.mask2former.default_config").ExperimentConfig
    cfg = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(spec))
    task = "evaluate" if cfg.model.mode == "semantic" else "inference"
    importlib.import_module(f"nvidia_tao_deploy.cv.mask2former.scripts.{task}").main(cfg)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: run.py SPEC")
    prepare()
    run(sys.argv[1])
