"""Predictions of a TAO checkpoint by TAO's own PyTorch path and post-processing: the reference of everything."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from stages import config
from stages.runtime import frames
from stages.tao import wheel
from stages.tao.spec import PIXEL_MEAN, PIXEL_STD


class Checkpoint:
    """A TAO checkpoint ready to predict on the CPU."""

    def __init__(self, folder: Path, num_things: int, deploy: config.Deploy) -> None:
        """Load folder/model.pth by folder/spec.yaml; classes 1 to num_things are things."""
        self.net = wheel.load_model(folder)
        self.use_post_processing(num_things, deploy)

    def use_post_processing(self, num_things: int, deploy: config.Deploy) -> None:
        """Set how the network's output becomes maps: size, thresholds, and which classes are things."""
        self.deploy = deploy
        things = {i: i for i in range(num_things)}
        # TAO's post-processing methods read only these.
        self._self = SimpleNamespace(
            object_mask_threshold=deploy.object_mask_threshold,
            overlap_threshold=deploy.overlap_threshold,
            metadata=SimpleNamespace(thing_dataset_id_to_contiguous_id=things),
        )
        module: Any = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")
        self._module = module.Mask2formerPlModule
        self._mean, self._std = (torch.tensor(x).view(1, 3, 1, 1) for x in (PIXEL_MEAN, PIXEL_STD))

    def logits(self, frame: frames.Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's answer on its input, uint8 [H, W, 3]: pred_logits [Q, 1 + C] and pred_masks [Q, H/4, W/4]."""
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = self.net((pixels - self._mean) / self._std)
        return output["pred_logits"][0], output["pred_masks"][0]

    def predict(self, picture: frames.Frame) -> tuple[frames.Panoptic, npt.NDArray[np.uint8]]:
        """Panoptic map of a picture, and its class map: uint8 [H, W], classes 1 to C."""
        logits, masks = self._at_picture(picture)
        with torch.inference_mode():
            semantic = self._module.semantic_inference(self._self, logits, masks).argmax(0) + 1
        return self._merge(logits, masks), semantic.numpy().astype(np.uint8)

    def panoptic(self, picture: frames.Frame) -> frames.Panoptic:
        """Panoptic map of a picture."""
        return self._merge(*self._at_picture(picture))

    def _at_picture(self, picture: frames.Frame) -> tuple[torch.Tensor, torch.Tensor]:
        frame, used = frames.fit(picture, self.deploy.height_px, self.deploy.width_px)
        logits, masks = self.logits(frame)
        masks = F.interpolate(masks[None], size=frame.shape[:2], mode="bilinear", align_corners=False)
        masks = masks[..., : used[0], : used[1]]
        return logits, F.interpolate(masks, size=picture.shape[:2], mode="bilinear", align_corners=False)[0]

    def _merge(self, logits: torch.Tensor, masks: torch.Tensor) -> frames.Panoptic:
        with torch.inference_mode():
            ids, segments = self._module.panoptic_inference(self._self, logits, masks)
        return frames.Panoptic(ids.numpy(), {s["id"]: s["category_id"] + 1 for s in segments})
