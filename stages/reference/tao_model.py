"""Runs a TAO checkpoint with TAO's own PyTorch network and post-processing.

Its predictions are the reference that exported graphs and engines are compared with.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

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
    """Predictions on one picture."""

    class_logits: torch.Tensor
    """float32 [Q, 1 + C], no-object at 0."""
    mask_logits: torch.Tensor
    """float32 [Q, h, w]."""
    segments: dict[config.Mode, Segments]
    """Mode -> map of segments at the picture's own size."""
    instances: "Instances | None"
    """Objects found in instance mode, if it was requested."""


@dataclass(frozen=True)
class Instances:
    """Objects of one picture. Their masks may overlap."""

    masks: npt.NDArray[np.bool_]
    """bool [K, H, W], at the picture's own size."""
    scores: npt.NDArray[np.float32]
    """float32 [K], 0 to 1."""
    category_ids: npt.NDArray[np.integer]
    """int [K], from 1."""


def best_device() -> str:
    """Return PyTorch's name of the GPU, or of the CPU if there is no GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Checkpoint:
    """A TAO checkpoint that is loaded for prediction."""

    device = "cpu"
    """PyTorch's name of the device that it runs on."""

    def __init__(self, folder: Path, num_things: int, deploy: config.Deploy, device: str = "cpu") -> None:
        """Load folder/model.pth, the weights of the network of folder/spec.yaml. Classes 1 to num_things are things."""
        self.device = device
        self.net = wheel.load_model(folder).to(device)
        self.use_post_processing(num_things, deploy)

    def use_post_processing(self, num_things: int, deploy: config.Deploy) -> None:
        """Set the parameters of the post-processing: sizes, thresholds, and which classes are things."""
        self.deploy = deploy
        things = {i: i for i in range(num_things)}
        # Stands in for `self` of TAO's post-processing methods, which read these attributes only.
        self._self = SimpleNamespace(
            object_mask_threshold=deploy.object_mask_threshold,
            overlap_threshold=deploy.overlap_threshold,
            metadata=SimpleNamespace(thing_dataset_id_to_contiguous_id=things),
            test_topk_per_image=deploy.top_k,
            device=self.device,
        )
        module: wheel.TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")
        self._module = module.Mask2formerPlModule

    def logits(self, frame: frames.Frame) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pred_logits [Q, 1 + C] and pred_masks [Q, h, w], float32, of a frame uint8 [H, W, 3]."""
        pixels = frames.network_input(frame[None], self.deploy)
        with torch.inference_mode():
            output = self.net(torch.from_numpy(pixels).to(self.device))
        return output["pred_logits"][0], output["pred_masks"][0]

    def at_frame(self, masks: torch.Tensor) -> torch.Tensor:
        """Resize pred_masks [Q, h, w] to the frame, [Q, H, W].

        As in TAO's evaluation: resize to the network's input, cut off the padding, resize to the frame. For the graph
        `tao` the result has the size of the network's input, as in TAO's exporter.
        """
        cfg = self.deploy
        height, width = frames.frame_in_input(cfg)
        masks = F.interpolate(masks[None], size=frames.input_size(cfg), mode="bilinear", align_corners=False)
        if cfg.graph is config.GraphKind.tao:
            return masks[0]
        masks = masks[..., :height, :width]
        return F.interpolate(masks, size=frames.frame_size(cfg), mode="bilinear", align_corners=False)[0]

    def merge(self, mode: config.Mode, logits: torch.Tensor, masks: torch.Tensor) -> Segments:
        """Apply TAO's post-processing of a mode to pred_logits [Q, 1 + C] and masks at the frame's size, [Q, H, W]."""
        with torch.inference_mode():
            if mode is config.Mode.semantic:
                classes = self._module.semantic_inference(self._self, logits, masks).argmax(0) + 1
                return segments.semantic(classes.cpu().numpy().astype(np.uint8))
            if mode is config.Mode.instance:
                return segments.instances(*self.instances(logits, masks), self.deploy)
            ids, found = self._module.panoptic_inference(self._self, logits, masks)
            return Segments(ids.cpu().numpy(), {s["id"]: s["category_id"] + 1 for s in found})

    def instances(
        self, logits: torch.Tensor, masks: torch.Tensor
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], npt.NDArray[np.integer]]:
        """Apply TAO's instance inference.

        Returns masks bool [K, H, W], scores float32 [K] and category_ids int [K], from 1, in no order.
        """
        self._self.num_queries, self._self.num_classes = logits.shape[0], logits.shape[1] - 1
        found = self._module.instance_inference(self._self, logits, masks)
        kept, scores, classes = (x.cpu().numpy() for x in (found.pred_masks, found.scores, found.pred_classes))
        return kept.astype(bool), scores, classes + 1

    def predict(self, picture: frames.Frame, *more: config.Mode) -> Prediction:
        """Predict a picture, uint8 [H, W, 3] of any size, in deploy.mode and the modes `more`.

        The result has `instances` only if `more` includes the instance mode, because masks at the picture's size take
        time.
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
        """Return the map of a picture in deploy.mode, at its own size."""
        return self.predict(picture).segments[self.deploy.mode]
