"""Makes the unmodified nvidia-tao-pytorch 7.3.0 wheel importable and usable in this process, with or without a GPU.

The wheel imports modules that PyPI does not have for Python 3.12 and that Mask2Former never calls, and it assumes CUDA
in three places. This module supplies stand-ins and replaces those places from outside. stages/training adds what
training needs. Importing TAO takes 7 to 15 s per process, so the functions that need it call `prepare`; importing this
module does not.
"""

import importlib
import importlib.util
import logging
import os
import sys
import textwrap
import warnings
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stages.foundation import text, torch_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

log = logging.getLogger(__name__)

TaoModule = Any
"""A module, a class or a network of TAO. The wheel has no types."""

# TAO's core imports these. PyPI does not have them for Python 3.12, or Mask2Former never calls them. The project named
# `eff` on PyPI is unrelated, so TAO must never import it.
UNUSED = ("eff", "open_clip", "transformers", "wandb")

HARMLESS = (
    r"\s*'spec.yaml' is validated against ConfigStore schema",
    "Importing from timm.models.layers is deprecated",
    "torch.meshgrid: in an upcoming release",
    "'pin_memory' argument is set as true but no accelerator is found",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "The number of training batches",
    "Checkpoint directory .* exists and is not empty",
    "Log file already exists at",
    "Future Hydra versions will no longer change working directory",
    "The '(train|val)_dataloader' does not have many workers",
)
"""Starts of warnings that the wheel and Lightning give on every run. None of them needs action."""


class _Unavailable(ModuleType):
    """A stand-in module. Its attributes can be imported and constructed; calling or using one raises RuntimeError."""

    __path__ = []  # noqa: RUF012  # marks a package

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        module = self.__name__

        def accept(self: object, *args: object, **kwargs: object) -> None:
            pass

        def refuse(self: object, *args: object, **kwargs: object) -> None:
            raise RuntimeError(f"TAO used {module}.{name}, which Mask2Former should never need: install {module}")

        return type(name, (), {"__init__": accept, "__call__": refuse, "__getattr__": refuse})


class _StandIns(MetaPathFinder, Loader):
    """Import hook that returns an _Unavailable module for any name below the given roots."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.split(".")[0] not in self.roots:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unavailable(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "panopticapi.utils":
            vars(module)["rgb2id"] = rgb2id


def rgb2id(color: "npt.ArrayLike") -> "npt.NDArray[np.int32]":
    """Decode COCO panoptic ids of an RGB array: uint8 [..., 3] -> int32 [...], id = R + 256 G + 65536 B."""
    import numpy as np

    c = np.asarray(color).astype(np.int32)
    return c[..., 0] + 256 * c[..., 1] + 65536 * c[..., 2]


@cache
def prepare() -> None:
    """Make TAO importable and usable on this host. Call it before any import of TAO; more calls do nothing."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    # PyTorch repeats it at every step on a GPU.
    warnings.filterwarnings("once", ".* does not have a deterministic implementation")
    missing = {name for name in (*UNUSED, "panopticapi") if importlib.util.find_spec(name) is None}
    sys.meta_path.insert(0, _StandIns(missing | {"eff"}))
    os.environ.setdefault("TAO_VISIBLE_DEVICES", "0")

    _tolerate_missing_op()
    _keep_lowest_class()
    _keep_swin_sizes()


def _tolerate_missing_op() -> None:
    """Let TAO use PyTorch's deformable attention if its compiled op is missing; TAO loads the op even on a CPU."""
    modules: TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.deformable_detr.model.ops.mask2former_modules")
    load_ops = modules.load_ops
    warned = False

    def load(ops_dir: str, lib_name: str) -> None:
        nonlocal warned
        try:
            load_ops(ops_dir, lib_name)
        except OSError as error:
            if not warned:
                reason = str(error).splitlines()[0]
                log.warning("TAO's compiled deformable attention is not used on this host: %s", reason)
                warned = True

    modules.load_ops = load


def _keep_lowest_class() -> None:
    """Keep the lowest class of a mask without void. TAO's semantic loader drops the lowest value, assuming void."""
    import numpy as np

    datasets: TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.dataloader.datasets")

    class WithVoid(ModuleType):
        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

        @staticmethod
        def unique(mask: "npt.NDArray[np.integer]") -> "npt.NDArray[np.integer]":
            return np.union1d([0], mask)

    datasets.np = WithVoid("numpy")


def _keep_swin_sizes() -> None:
    """Take embed_dim, depths and num_heads from the spec. TAO replaces them with those of a table, by swin.type."""
    model = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.mask2former")

    def build(self: TaoModule, cfg: object) -> TaoModule:
        net = model.D2SwinTransformer(cfg)
        self.backbone_feature_shape = net.output_shape()
        return net

    model.MaskFormerModel.build_backbone = build


def build_network(spec: Path) -> "torch.nn.Module":
    """Build TAO's MaskFormerModel from a spec file, with random weights.

    Its input is normalised RGB, float32 [B, 3, H, W]. Its output is a dict of logits, float32: pred_logits
    [B, Q, 1 + C] with no-object at 0, and pred_masks [B, Q, H/4, W/4].
    """
    prepare()
    from omegaconf import OmegaConf

    schema = importlib.import_module("nvidia_tao_pytorch.config.mask2former.default_config")
    model = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.mask2former")
    cfg = OmegaConf.merge(OmegaConf.structured(schema.ExperimentConfig), OmegaConf.load(spec))
    net: torch.nn.Module = model.MaskFormerModel(cfg)
    return net


def load_model(checkpoint: Path) -> "torch.nn.Module":
    """Load checkpoint/model.pth into the network of checkpoint/spec.yaml, in eval mode; see `build_network`.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged, was not written by TAO, or does not
    fit the other.
    """
    from omegaconf.errors import OmegaConfBaseException

    spec, path = checkpoint / "spec.yaml", checkpoint / "model.pth"
    for file in (spec, path):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} not found; expected the folder of a checkpoint with {spec.name} and {path.name}, as train "
                "writes it; run `make all`, or choose another folder"
            )
    if not isinstance(text.read_yaml(spec), dict):
        raise ValueError(f"{spec}: found no keys, expected TAO's spec; use the one that train wrote")
    content = torch_file.read(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(
            f"{path}: found no state_dict, expected a checkpoint as train writes it; import other weights with "
            "model.weights"
        )
    try:
        net = build_network(spec)
    except OmegaConfBaseException as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{spec}: not TAO's spec ({reason}); use the one that train wrote") from error
    weights = {k.removeprefix("model."): v for k, v in state.items() if str(k).startswith("model.")}
    try:
        net.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        # PyTorch's first line names the class only; each problem has a line of its own.
        problems = [textwrap.shorten(line, 200, placeholder=" ...") for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"{path} does not fit the network of {spec}: {' '.join(problems[:3])} Use the two files of one training"
        ) from error
    return net.eval()
