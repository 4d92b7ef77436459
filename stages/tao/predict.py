"""Predictions of a TAO checkpoint by TAO's own PyTorch path and post-processing: the reference of everything."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stages import config
from stages.runtime import frames, segments
from stages.runtime.segments import Segments
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
            test_topk_per_image=deploy.top_k,
            device="cpu",
        )
        module: Any = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")
        self._module = module.Mask2formerPlModule

    def logits(self, frame: frames.Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's answer on a frame, uint8 [H, W, 3]: pred_logits [Q, 1 + C] and pred_masks [Q, h, w]."""
        pixels = frames.network_input(frame[None], self.deploy, PIXEL_MEAN, PIXEL_STD)
        with torch.inference_mode():
            output = self.net(torch.from_numpy(pixels))
        return output["pred_logits"][0], output["pred_masks"][0]

    def at_frame(self, masks: torch.Tensor) -> torch.Tensor:
        """pred_masks [Q, h, w] resized as TAO's evaluation does: to the input, cut, and to the frame, [Q, H, W].

        For the graph `tao` to the input alone, as TAO's exporter does.
        """
        cfg = self.deploy
        size, frame = (cfg.height_px, cfg.width_px), (cfg.frame_height_px, cfg.frame_width_px)
        used = frames.fitted_size(frame, size, cfg.resize)
        masks = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)
        if cfg.graph is config.GraphKind.tao:
            return masks[0]
        masks = masks[..., : used[0], : used[1]]
        return F.interpolate(masks, size=frame, mode="bilinear", align_corners=False)[0]

    def merge(self, logits: torch.Tensor, masks: torch.Tensor) -> Segments:
        """TAO's post-processing of deploy.mode on pred_logits [Q, 1 + C] and masks at the frame's size [Q, H, W]."""
        with torch.inference_mode():
            if self.deploy.mode is config.Mode.semantic:
                return segments.semantic(self._class_ids(logits, masks))
            if self.deploy.mode is config.Mode.instance:
                return segments.instances(*self.instances(logits, masks), self.deploy)
            return self._panoptic(logits, masks)

    def instances(self, logits: torch.Tensor, masks: torch.Tensor) -> tuple[Any, Any, Any]:
        """TAO's instance inference: masks bool [K, H, W], scores float32 [K], category_ids int [K], in any order."""
        self._self.num_queries, self._self.num_classes = logits.shape[0], logits.shape[1] - 1
        found = self._module.instance_inference(self._self, logits, masks)
        return found.pred_masks.numpy().astype(bool), found.scores.numpy(), found.pred_classes.numpy() + 1

    def predict(self, picture: frames.Frame) -> dict[config.Mode, Segments]:
        """Maps of a picture at its own size: panoptic, semantic, and deploy.mode's where that is instance."""
        logits, masks, used = self._at_frame(picture)
        with torch.inference_mode():
            found = {
                config.Mode.panoptic: self._panoptic(logits, masks),
                config.Mode.semantic: segments.semantic(self._class_ids(logits, masks)),
            }
        if self.deploy.mode not in found:
            found[self.deploy.mode] = self.merge(logits, masks)
        return {mode: self._restore(answer, used, picture) for mode, answer in found.items()}

    def segments(self, picture: frames.Frame) -> Segments:
        """Map of a picture in deploy.mode, at its own size."""
        logits, masks, used = self._at_frame(picture)
        return self._restore(self.merge(logits, masks), used, picture)

    def _at_frame(self, picture: frames.Frame) -> tuple[torch.Tensor, torch.Tensor, frames.Size]:
        frame, used = frames.fit(picture, self.deploy)
        logits, masks = self.logits(frame)
        return logits, self.at_frame(masks), used

    def _restore(self, answer: Segments, used: frames.Size, picture: frames.Frame) -> Segments:
        size = (picture.shape[0], picture.shape[1])
        return Segments(frames.to_picture(answer.ids, used, size, self.deploy), answer.category_ids)

    def _class_ids(self, logits: torch.Tensor, masks: torch.Tensor) -> Any:
        classes = self._module.semantic_inference(self._self, logits, masks).argmax(0) + 1
        return classes.numpy().astype(np.uint8)

    def _panoptic(self, logits: torch.Tensor, masks: torch.Tensor) -> Segments:
        ids, found = self._module.panoptic_inference(self._self, logits, masks)
        return Segments(ids.numpy(), {s["id"]: s["category_id"] + 1 for s in found})
