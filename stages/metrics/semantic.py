"""Mean intersection over union of class maps, from a confusion matrix."""

from typing import Any

import numpy as np
import numpy.typing as npt

CONFUSION = ("actual", "predicted", "share_pct")


class MeanIoU:
    """Accumulates pictures. Classes are 1 to num_classes; 0 in the truth is ignored, 0 predicted is a miss."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        """int64 [1 + C, 1 + C]: pixels by true class (row) and predicted class (column)."""

    def add(self, truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> None:
        """Count one picture: two integer [H, W] of classes 0 to num_classes. Raises ValueError if sizes differ."""
        if truth.shape != predicted.shape:
            raise ValueError(f"the truth is {truth.shape}, the prediction {predicted.shape}; they must be equal")
        size = len(self.confusion)
        flat = truth.ravel().astype(np.int64) * size + predicted.ravel()
        self.confusion += np.bincount(flat, minlength=size * size).reshape(size, size)

    def iou_by_class(self) -> npt.NDArray[np.float64]:
        """IoU of classes 1 to num_classes, 0 to 100; NaN for a class that the truth does not hold."""
        counted = self.confusion[1:]
        hits = np.diag(self.confusion)[1:]
        true, predicted = counted.sum(1), counted[:, 1:].sum(0)
        with np.errstate(invalid="ignore"):
            return np.where(true > 0, 100 * hits / (true + predicted - hits), np.nan)

    def summary(self) -> dict[str, float]:
        """Miou over the classes that the truth holds, their number, and pixel accuracy; 0 to 100."""
        iou = self.iou_by_class()
        present = ~np.isnan(iou)
        counted = int(self.confusion[1:].sum())
        accuracy = 100 * int(np.diag(self.confusion)[1:].sum()) / counted if counted else 0.0
        miou = float(iou[present].mean()) if present.any() else 0.0
        return {"miou": miou, "classes_present": int(present.sum()), "pixel_accuracy": accuracy}

    def shares(self, names: list[str]) -> list[dict[str, Any]]:
        """Rows of CONFUSION: of the pixels of each class that the truth holds, the share taken for each, in percent.

        names: of classes 1 to num_classes. Shares below 0.005 are left out, which are most of them.
        """
        rows = []
        for true in np.flatnonzero(self.confusion[1:].sum(1)):
            shares = 100 * self.confusion[true + 1] / self.confusion[true + 1].sum()
            for predicted in np.flatnonzero(shares >= 0.005):
                taken = names[predicted - 1] if predicted else "nothing"
                rows.append(
                    {"actual": names[true], "predicted": taken, "share_pct": round(float(shares[predicted]), 2)}
                )
        return rows
