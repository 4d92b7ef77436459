"""COCO's average precision of instance masks (cocodataset.org/#detection-eval), by pycocotools.

That is imported where it is used: machines that only run engines do not have it.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of COCO's twelve figures, in its order."""


class AveragePrecision:
    """Accumulates pictures; `evaluate` ends it."""

    def __init__(self, instances_json: Path) -> None:
        """Read the truth: COCO instances with masks of the pictures' own size."""
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(str(instances_json))
        self.results: list[dict[str, Any]] = []
        """COCO results (cocodataset.org/#format-results): image_id, category_id, score, segmentation."""

    def add(
        self,
        image_id: int,
        masks: npt.NDArray[np.bool_],
        scores: npt.NDArray[Any],
        category_ids: npt.NDArray[Any],
    ) -> None:
        """Count one picture: masks bool [K, H, W], scores float [K], category_ids int [K]; empty masks are left out."""
        self.results += results(image_id, masks, scores, category_ids)

    def evaluate(self) -> tuple[dict[str, float], dict[int, float]]:
        """The figures of NAMES, 0 to 100, without those of sizes that the truth does not hold; AP by category_id."""
        from pycocotools.cocoeval import COCOeval

        categories = sorted({a["category_id"] for a in self._truth.dataset["annotations"] if not a["iscrowd"]})
        if not self.results:
            return dict.fromkeys(NAMES, 0.0) if categories else {}, dict.fromkeys(categories, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._truth, self._truth.loadRes([dict(r) for r in self.results]), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures = {n: 100 * float(v) for n, v in zip(NAMES, evaluation.stats, strict=False) if v >= 0}
        # [IoU threshold, recall, category, area range, detections]: all areas, the largest number of detections.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        by_class = {}
        for index, category_id in enumerate(evaluation.params.catIds):
            found = precision[:, :, index]
            if (found > -1).any():
                by_class[int(category_id)] = 100 * float(found[found > -1].mean())
        return figures, by_class


def results(
    image_id: int, masks: npt.NDArray[np.bool_], scores: npt.NDArray[Any], category_ids: npt.NDArray[Any]
) -> list[dict[str, Any]]:
    """COCO results of one picture, best first, with compressed run lengths as text; empty masks are left out."""
    from pycocotools import mask as rle

    found = []
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
