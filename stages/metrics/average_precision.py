"""Average precision of instance masks by COCO's rules (cocodataset.org/#detection-eval), computed by pycocotools.

pycocotools is imported inside functions: machines that only run engines do not have it.
"""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of COCO's twelve figures, in COCO's order."""


class RunLengths(TypedDict):
    """A mask as COCO's compressed run lengths."""

    size: list[int]
    """Height and width."""
    counts: str


class Result(TypedDict):
    """An instance in COCO's format of results (cocodataset.org/#format-results)."""

    image_id: int
    category_id: int
    score: float
    segmentation: RunLengths


class AveragePrecision:
    """Collects the instances of pictures. Call `evaluate` after the last one."""

    def __init__(self, instances_json: Path) -> None:
        """Read the truth, a COCO instances file whose masks have the pictures' own size."""
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(str(instances_json))
        self.results: list[Result] = []

    def add(
        self,
        image_id: int,
        masks: npt.NDArray[np.bool_],
        scores: npt.NDArray[np.floating],
        category_ids: npt.NDArray[np.integer],
    ) -> None:
        """Add one picture: masks bool [K, H, W], scores float [K], category_ids int [K]. Empty masks are left out."""
        self.results += results(image_id, masks, scores, category_ids)

    def evaluate(
        self, image_ids: Collection[int] | None = None, category_ids: Collection[int] | None = None
    ) -> tuple[dict[str, float], dict[int, float]]:
        """Return the figures of NAMES and the AP by category_id, all 0 to 100.

        They are of all pictures and classes, or of those given. A figure of a size that the truth does not hold is left
        out.
        """
        from pycocotools.cocoeval import COCOeval

        categories = sorted(
            {
                a["category_id"]
                for a in self._truth.dataset["annotations"]
                if not a["iscrowd"]
                and (image_ids is None or a["image_id"] in image_ids)
                and (category_ids is None or a["category_id"] in category_ids)
            }
        )
        if not categories:
            return {}, {}
        if not self.results:
            return dict.fromkeys(NAMES, 0.0), dict.fromkeys(categories, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._truth, self._truth.loadRes([{**result} for result in self.results]), "segm")
            if image_ids is not None:
                evaluation.params.imgIds = sorted(image_ids)
            if category_ids is not None:
                evaluation.params.catIds = sorted(category_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures = {n: 100 * float(v) for n, v in zip(NAMES, evaluation.stats, strict=False) if v >= 0}
        # [IoU threshold, recall, category, area range, detections]: area range 0 is all sizes, -1 the most detections.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        by_class = {}
        for index, category_id in enumerate(evaluation.params.catIds):
            found = precision[:, :, index]
            if (found > -1).any():
                by_class[int(category_id)] = 100 * float(found[found > -1].mean())
        return figures, by_class


def results(
    image_id: int,
    masks: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    category_ids: npt.NDArray[np.integer],
) -> list[Result]:
    """Return the COCO results of one picture, best score first. Empty masks are left out.

    masks bool [K, H, W], scores float [K], category_ids int [K].
    """
    from pycocotools import mask as rle

    found: list[Result] = []
    for index in np.argsort(-scores, kind="stable"):
        if not masks[index].any():
            continue
        encoded = rle.encode(np.asfortranarray(masks[index], dtype=np.uint8))
        found.append(
            {
                "image_id": image_id,
                "category_id": int(category_ids[index]),
                "score": float(scores[index]),
                "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
            }
        )
    return found
