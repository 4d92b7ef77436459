"""Trains on sources that label different classes: train.partial_labels. TAO has nothing of the kind.

TAO tells each query that is matched to no segment to say "no object". On a picture of a source that has no label for
stairs this punishes a query that finds the stairs. sources.json, which convert writes, says which classes a source
labels everywhere, in part (another of its labels covers them together with other classes, and is void) and never.
Here, for a picture of the source s, class probabilities p of a query (p_0: no object) and its mask:

1. Class loss of an unmatched query: -log(p_0 + sum of p_c over the classes c in U), in place of -log(p_0). It is the
   negative log-likelihood of what is known, that the query is nothing or something that s does not label. U holds the
   classes that s never labels; and those that it labels in part, if at least half of the query's mask lies on void
   pixels. No class that s labels everywhere is in U. The weights and the mean over queries are TAO's. Matched queries
   keep TAO's loss. Source: the background of Cermelli et al., Modeling the Background for Incremental Learning in
   Semantic Segmentation, CVPR 2020, eq. 5; Shi et al., Marginal loss and exclusion loss for partially supervised
   multi-organ segmentation, Medical Image Analysis 2021.
2. Mask losses and the mask costs of the matching, for a segment of the class c: void pixels of the picture are left out
   if s labels c in part, since they may be of c. They add nothing to focal and dice loss; means are still over all
   pixels. If s labels c everywhere, a void pixel is known not to be c and counts against c, as in TAO.

Both hold for the losses of all decoder layers, in training and in validation. Where every source labels every class
everywhere, all losses and gradients are TAO's to the last bit. TAO computes mask losses on all pixels, never on sampled
points.

Importing this module imports TAO: stages.tao.wheel.prepare comes first.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from stages.foundation import files
from stages.tao.wheel import TaoModule

log = logging.getLogger(__name__)

_MASK2FORMER = "nvidia_tao_pytorch.cv.mask2former"
_datasets: TaoModule = importlib.import_module(f"{_MASK2FORMER}.dataloader.datasets")
_loaders: TaoModule = importlib.import_module(f"{_MASK2FORMER}.dataloader.pl_data_module")
_module: TaoModule = importlib.import_module(f"{_MASK2FORMER}.model.pl_model")
_criterion: TaoModule = importlib.import_module(f"{_MASK2FORMER}.utils.criterion")
_matcher: TaoModule = importlib.import_module(f"{_MASK2FORMER}.utils.matcher")
_taos_rgb2id = _datasets.rgb2id

VOID = 255
"""Class of void pixels while TAO loads a picture. Its masks have 8 bits, and convert writes at most 254 classes."""
_VOID_ID = -1
"""Id of void pixels in panoptic and instance masks while TAO loads a picture."""
OUTSIDE = -100.0
"""Mask logit of a pixel that is left out: its probability is 0 in float32, as is its loss with the target 0."""

Sample = dict[str, Any]
Target = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Labelled:
    """What the source of a picture labels. Index 0 of both is no object."""

    never: torch.Tensor
    """bool [1 + C]; true for the classes that no label of the source becomes."""
    partly: torch.Tensor
    """bool [1 + C]; true for the classes that another label of the source also covers."""


@dataclass(frozen=True)
class Picture:
    """A picture of a split."""

    labelled: Labelled
    panoptic: str
    """Name of its file in the folder panoptic."""


def read(folder: Path) -> list[Picture]:
    """Return the pictures of a split that convert wrote to `folder`, in the order of its files."""
    content, about = files.read_json(folder / "panoptic.json"), files.read_json(folder / "sources.json")
    ids = [category["id"] for category in content["categories"]]

    def classes(wanted: set[int]) -> torch.Tensor:
        return torch.tensor([False, *(i in wanted for i in ids)])

    labelled = {}
    for name, source in about.items():
        everywhere, partly = (set(source[f"category_ids_{where}"]) for where in ("everywhere", "partly"))
        labelled[name] = Labelled(classes(set(ids) - everywhere - partly), classes(partly))
    images = zip(content["images"], content["annotations"], strict=True)
    return [Picture(labelled[image["source"]], annotation["file_name"]) for image, annotation in images]


class _Pictures(_datasets.BaseDataset):  # type: ignore[misc]
    """What the three loaders share: a sample's target also says what the picture's source labels.

    Where a source labels a class in part, void becomes a segment of the class VOID, which takes TAO's way through
    flips, scaling, crops and padding, and is then taken out of the segments. Padding is not void.
    """

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        self.folder = Path(path).parent
        self.pictures = read(self.folder)
        self.marks_void = any(bool(p.labelled.partly.any()) for p in self.pictures)
        super().__init__(path, *args, **kwargs)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = super().__getitem__(index)
        labelled = self.pictures[index].labelled
        if self.marks_void:
            sample["segm"][sample["segm"] == VOID] = 0
            void = _take_void(sample["target"])
            if labelled.partly.any():
                sample["target"]["void"] = void
        sample["target"] |= {"never": labelled.never, "partly": labelled.partly}
        return sample


def _take_void(target: Target) -> torch.Tensor:
    """Take the class VOID out of labels and masks, and return its pixels, bool [h, w]."""
    labels, masks = target["labels"], target["masks"]
    if not len(masks):
        return torch.zeros(masks.shape[1:], dtype=torch.bool)
    own = labels != VOID
    target |= {"labels": labels[own], "masks": masks[own]}
    if not own.any():
        # TAO's form of a picture without segments.
        target |= {"labels": torch.zeros_like(labels[:1]), "masks": torch.zeros((0, *masks.shape[1:]))}
    return (masks[~own] > 0).any(0)


class _Panoptic(_Pictures, _datasets.COCOPanopticDataset):  # type: ignore[misc]
    def load_json(self) -> None:
        super().load_json()
        if self.marks_void:
            for annotation in self.raw_annot["annotations"]:
                annotation["segments_info"].append({"id": _VOID_ID, "category_id": VOID, "iscrowd": 0})

    def get_category_mapping(self) -> None:
        super().get_category_mapping()
        self.stuff_dataset_id_to_contiguous_id[VOID] = VOID


class _Instances(_Pictures, _datasets.COCODataset):  # type: ignore[misc]
    def load_coco(self) -> None:
        super().load_coco()
        self.panoptic = {i: picture.panoptic for i, picture in zip(self.image_ids, self.pictures, strict=True)}

    def get_gt(self, image_info: Any, annot_ids: Any, target_size: Any = None) -> Any:
        segm, labels, ids = super().get_gt(image_info, annot_ids, target_size=target_size)
        if self.marks_void:
            # instances.json does not tell stuff from void.
            path = self.panoptic[image_info["id"]], self.folder / "panoptic"
            covered = self.get_mask(*path, mode="RGB", target_size=target_size).any(-1)
            segm[(segm == 0) & ~covered] = _VOID_ID
            labels, ids = [*labels, VOID], [*ids, _VOID_ID]
        return segm, labels, ids


class _Semantic(_Pictures, _datasets.ADEDataset):  # type: ignore[misc]
    def get_mask(self, *args: Any, **kwargs: Any) -> Any:
        classes = super().get_mask(*args, **kwargs)
        if self.marks_void:
            classes[classes == 0] = VOID
        return classes


def _rgb2id(color: Any) -> Any:
    """Decode panoptic ids as TAO's function does, with _VOID_ID for void: padding alone is 0."""
    ids = _taos_rgb2id(color)
    ids[ids == 0] = _VOID_ID
    return ids


class _RandomCrop(_datasets.RandomCrop):  # type: ignore[misc]
    """Crops as TAO does: it looks for crops of several segments, and void is none."""

    def __init__(self, orig_size: Any, crop_size: Any, segm: Any) -> None:
        void = (segm == VOID) if segm.dtype.itemsize == 1 else (segm == _VOID_ID)
        super().__init__(orig_size, crop_size, np.where(void, 0, segm))


class Criterion(_criterion.SetCriterion):  # type: ignore[misc]
    """TAO's losses by the rules above. Targets have the keys that the loaders here add."""

    def loss_labels(self, outputs: Any, targets: Sequence[Target], indices: Any, num_masks: float) -> Any:
        """Return TAO's class loss, with the classes of U added to no object for unmatched queries."""
        logits = outputs["pred_logits"].float()
        free = torch.stack([_free(target, masks) for target, masks in zip(targets, outputs["pred_masks"], strict=True)])
        free[self._get_src_permutation_idx(indices)] = False
        free[..., 0] = True
        # exp(merged[0]) = the sum of exp(logits) over no object and U: a softmax adds their probabilities.
        nothing = logits.masked_fill(~free, -torch.inf).logsumexp(-1, keepdim=True)
        merged = torch.cat([nothing, logits[..., 1:].masked_fill(free[..., 1:], -torch.inf)], -1)
        return super().loss_labels({"pred_logits": merged}, targets, indices, num_masks)

    def loss_masks(self, outputs: Any, targets: Sequence[Target], indices: Any, num_masks: float) -> Any:
        """Return TAO's mask losses, without the pixels that may be of a segment's class although they are void."""
        masks = outputs["pred_masks"]
        if any("void" in target for target in targets):
            left_out = torch.zeros_like(masks, dtype=torch.bool)
            left_out[self._get_src_permutation_idx(indices)] = torch.cat(
                [_left_out(target)[chosen] for target, (_, chosen) in zip(targets, indices, strict=True)]
            )
            masks = masks.masked_fill(left_out, OUTSIDE)
        return super().loss_masks({"pred_masks": masks}, targets, indices, num_masks)


def _free(target: Target, masks: torch.Tensor) -> torch.Tensor:
    """Return the classes of U for each query of a picture, bool [Q, 1 + C]; `masks` are its mask logits [Q, h, w]."""
    never, partly = target["never"], target["partly"]
    if "void" not in target:
        return never.repeat(len(masks), 1)
    inside = (masks.detach() > 0).flatten(1)
    on_void = (inside & target["void"].flatten()).sum(1)
    mostly_void = (on_void > 0) & (2 * on_void >= inside.sum(1))
    return never | (mostly_void[:, None] & partly)


def _left_out(target: Target) -> torch.Tensor:
    """Return the pixels that the mask losses of each segment leave out, bool [N, h, w]."""
    if "void" not in target:
        return torch.zeros_like(target["masks"], dtype=torch.bool)
    return target["partly"][target["labels"][: len(target["masks"])], None, None] & target["void"]


class Matcher(_matcher.HungarianMatcher):  # type: ignore[misc]
    """TAO's matching, with mask costs of the same pixels as the mask losses."""

    @torch.no_grad()
    def memory_efficient_forward(self, outputs: Any, targets: Sequence[Target]) -> Any:
        """Return the matched queries and segments of each picture, two int64 tensors [min(Q, N)]."""
        found = []
        for target, logits, masks in zip(targets, outputs["pred_logits"], outputs["pred_masks"], strict=True):
            if "void" in target and len(target["masks"]):
                found.append(self._matched(target, logits, masks))
            else:
                found += super().memory_efficient_forward(
                    {"pred_logits": logits[None], "pred_masks": masks[None]}, [target]
                )
        return found

    def _matched(self, target: Target, logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match the queries of a picture; `logits` [Q, 1 + C] and `masks` [Q, h, w] are its predictions."""
        labels = target["labels"]
        with torch.autocast(masks.device.type, enabled=False):
            truth = target["masks"].flatten(1).float()

            def cost(masks: torch.Tensor) -> torch.Tensor:
                pixels = masks.flatten(1).float()
                focal, dice = _matcher.batch_sigmoid_focal_loss(pixels, truth), _matcher.batch_dice_loss(pixels, truth)
                total: torch.Tensor = self.cost_mask * focal + self.cost_dice * dice
                return total

            of_masks = torch.where(
                target["partly"][labels], cost(masks.masked_fill(target["void"], OUTSIDE)), cost(masks)
            )
        total = of_masks - self.cost_class * logits.softmax(-1)[:, labels]
        queries, segments = linear_sum_assignment(total.cpu())
        return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(segments, dtype=torch.int64)


REPLACED = (
    (_loaders, "COCOPanopticDataset", _Panoptic),
    (_loaders, "COCODataset", _Instances),
    (_loaders, "ADEDataset", _Semantic),
    (_datasets, "rgb2id", _rgb2id),
    (_datasets, "RandomCrop", _RandomCrop),
    (_module, "SetCriterion", Criterion),
    (_module, "HungarianMatcher", Matcher),
)
"""Module of TAO, name in it, and what stands there while `installed`."""


@contextmanager
def installed(coco: Path) -> Iterator[None]:
    """Replace TAO's loaders, losses and matching by those of this module for trainings on `coco`, convert's folder."""
    labelled = [picture.labelled for split in ("train", "val") for picture in read(coco / split)]
    if not any(bool((one.never | one.partly).any()) for one in labelled):
        log.info("train.partial_labels changes nothing: every source labels every class")
    former = [(module, name, getattr(module, name)) for module, name, _ in REPLACED]
    try:
        for module, name, ours in REPLACED:
            setattr(module, name, ours)
        yield
    finally:
        for module, name, taos in former:
            setattr(module, name, taos)
