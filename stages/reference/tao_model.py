"""Predictions of a TAO checkpoint by TAO's own PyTorch path and post-processing: the reference of everything."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from stages import config
from stages.inference import frames, segments
from stages.inference.segments import Segments
from stages.tao import wheel


@dataclass(frozen=True)
class Prediction:
    """The answer on one picture."""

    class_logits: torch.Tensor
    """float32 [Q, 1 + C], no-object at 0."""
    mask_logits: torch.Tensor
    """float32 [Q, h, w]."""
    segments: dict[config.Mode, Segments]
    """Maps at the picture's own size."""
    instances: "Instances | None"
    """What is found in instance mode, if that was asked for."""


@dataclass(frozen=True)
class Instances:
    """Objects of one picture; their masks overlap."""

    masks: npt.NDArray[np.bool_]
    """bool [K, H, W], at the picture's own size."""
    scores: npt.NDArray[np.float32]
    """float32 [K], 0 to 1."""
    category_ids: npt.NDArray[Any]
    """[K], from 1."""


def best_device() -> str:
    """PyTorch's name of the GPU where there is one, else of the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Checkpoint:
    """A TAO checkpoint ready to predict."""

    device = "cpu"
    """PyTorch's name of where it runs."""

    def __init__(self, folder: Path, num_things: int, deploy: config.Deploy, device: str = "cpu") -> None:
        """Load folder/model.pth by folder/spec.yaml onto a device; classes 1 to num_things are things."""
        self.device = device
        self.net = wheel.load_model(folder).to(device)
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
            device=self.device,
        )
        module: Any = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")
        self._module = module.Mask2formerPlModule

    def logits(self, frame: frames.Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's answer on a frame, uint8 [H, W, 3]: pred_logits [Q, 1 + C] and pred_masks [Q, h, w]."""
        pixels = frames.network_input(frame[None], self.deploy)
        with torch.inference_mode():
            output = self.net(torch.from_numpy(pixels).to(self.device))
        return output["pred_logits"][0], output["pred_masks"][0]

    def at_frame(self, masks: torch.Tensor) -> torch.Tensor:
        """pred_masks [Q, h, w] resized as TAO's evaluation does: to the input, cut, and to the frame, [Q, H, W].

        For the graph `tao` to the input alone, as TAO's exporter does.
        """
        cfg = self.deploy
        height, width = frames.frame_in_input(cfg)
        masks = F.interpolate(masks[None], size=frames.input_size(cfg), mode="bilinear", align_corners=False)
        if cfg.graph is config.GraphKind.tao:
            return masks[0]
        masks = masks[..., :height, :width]
        return F.interpolate(masks, size=frames.frame_size(cfg), mode="bilinear", align_corners=False)[0]

    def merge(self, mode: config.Mode, logits: torch.Tensor, masks: torch.Tensor) -> Segments:
        """TAO's post-processing of a mode on pred_logits [Q, 1 + C] and masks at the frame's size [Q, H, W]."""
        with torch.inference_mode():
            if mode is config.Mode.semantic:
                classes = self._module.semantic_inference(self._self, logits, masks).argmax(0) + 1
                return segments.semantic(classes.cpu().numpy().astype(np.uint8))
            if mode is config.Mode.instance:
                return segments.instances(*self.instances(logits, masks), self.deploy)
            ids, found = self._module.panoptic_inference(self._self, logits, masks)
            return Segments(ids.cpu().numpy(), {s["id"]: s["category_id"] + 1 for s in found})

    def instances(self, logits: torch.Tensor, masks: torch.Tensor) -> tuple[Any, Any, Any]:
        """TAO's instance inference: masks bool [K, H, W], scores float32 [K], category_ids int [K], in any order."""
        self._self.num_queries, self._self.num_classes = logits.shape[0], logits.shape[1] - 1
        found = self._module.instance_inference(self._self, logits, masks)
        kept, scores, classes = (x.cpu().numpy() for x in (found.pred_masks, found.scores, found.pred_classes))
        return kept.astype(bool), scores, classes + 1

    def predict(self, picture: frames.Frame, *more: config.Mode) -> Prediction:
        """Answer on a picture, uint8 [H, W, 3] of any size, in deploy.mode and `more` modes.

        `instances` is of `more`'s instance mode alone, as masks at the picture's size take a while.
        """
        frame, used = frames.fit(picture, self.deploy)
        logits, quarter_masks = self.logits(frame)
        masks, size = self.at_frame(quarter_masks), (picture.shape[0], picture.shape[1])
        found, objects = {}, None
        for mode in {self.deploy.mode, *more}:
            if mode is config.Mode.instance:
                kept, scores, category_ids = self.instances(logits, masks)
                merged = segments.instances(kept, scores, category_ids, self.deploy)
                if mode in more:
                    own = [frames.to_picture(m.astype(np.uint8), used, size, self.deploy) for m in kept]
                    objects = Instances(np.array(own, bool), scores, category_ids)
            else:
                merged = self.merge(mode, logits, masks)
            found[mode] = Segments(frames.to_picture(merged.ids, used, size, self.deploy), merged.category_ids)
        return Prediction(logits, quarter_masks, found, objects)

    def segments(self, picture: frames.Frame) -> Segments:
        """Map of a picture in deploy.mode, at its own size."""
        return self.predict(picture).segments[self.deploy.mode]
