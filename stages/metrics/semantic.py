"""Mean intersection over union of class maps, from a confusion matrix."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

CONFUSION = ("actual", "predicted", "share_pct")
"""Columns of the confusion table."""


class MeanIoU:
    """Counts the pixels of pictures. Classes are 1 to num_classes. True 0 is ignored, predicted 0 is a miss."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        """Pixels by true class (row) and predicted class (column), int64 [1 + C, 1 + C]."""

    def add(self, truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> None:
        """Count one picture: two maps of classes, integer [H, W], 0 to C. Raises ValueError if their sizes differ."""
        if truth.shape != predicted.shape:
            raise ValueError(f"the truth is {truth.shape}, the prediction {predicted.shape}; they must be equal")
        size = len(self.confusion)
        flat = truth.ravel().astype(np.int64) * size + predicted.ravel()
        self.confusion += np.bincount(flat, minlength=size * size).reshape(size, size)

    @classmethod
    def total(cls, parts: Iterable["MeanIoU"], num_classes: int) -> "MeanIoU":
        """Return the counts of several together."""
        result = cls(num_classes)
        for part in parts:
            result.confusion += part.confusion
        return result

    def iou_by_class(self, predicted_too: bool = False) -> npt.NDArray[np.float64]:
        """Return the IoU of classes 1 to num_classes, float64 [C], 0 to 100; NaN for a class that the truth lacks.

        With `predicted_too` NaN is only for a class that truth and prediction lack, as in Cityscapes' script: 0 for one
        that is predicted alone.
        """
        counted = self.confusion[1:]
        hits = np.diag(self.confusion)[1:]
        true, predicted = counted.sum(1), counted[:, 1:].sum(0)
        with np.errstate(invalid="ignore"):
            union = true + predicted - hits
            return np.where((union if predicted_too else true) > 0, 100 * hits / union, np.nan)

    def summary(self, of: Collection[int] | None = None, predicted_too: bool = False) -> dict[str, float]:
        """Return mIoU over the classes that the truth holds, their number, and the pixel accuracy, 0 to 100.

        With `of` the mean is over these classes alone; the accuracy is of all pixels in any case. `predicted_too` as in
        `iou_by_class`.
        """
        iou = self.iou_by_class(predicted_too)
        present = ~np.isnan(iou)
        if of is not None:
            present &= np.isin(np.arange(1, len(iou) + 1), list(of))
        counted = int(self.confusion[1:].sum())
        accuracy = 100 * int(np.diag(self.confusion)[1:].sum()) / counted if counted else 0.0
        miou = float(iou[present].mean()) if present.any() else 0.0
        return {"miou": miou, "classes_present": int(present.sum()), "pixel_accuracy": accuracy}

    def shares(self, names: Sequence[str]) -> list[dict[str, str | float]]:
        """Return rows with the columns CONFUSION: the share of a true class's pixels that were predicted as a class.

        `names` are those of classes 1 to num_classes. Shares are in percent; those below 0.005, which are most, are
        left out.
        """
        rows: list[dict[str, str | float]] = []
        for true in np.flatnonzero(self.confusion[1:].sum(1)).tolist():
            shares = 100 * self.confusion[true + 1] / self.confusion[true + 1].sum()
            for predicted in np.flatnonzero(shares >= 0.005).tolist():
                taken = names[predicted - 1] if predicted else "nothing"
                rows.append(
                    {"actual": names[true], "predicted": taken, "share_pct": round(float(shares[predicted]), 2)}
                )
        return rows
