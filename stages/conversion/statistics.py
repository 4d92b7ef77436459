"""Counts the images, segments and pixels of a split, by class and by size."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stages.conversion.records import Record
from stages.foundation.coco_types import Category

SMALL_PX, LARGE_PX = 32**2, 96**2
"""COCO's area limits in pixels: small is below the first, large from the second (cocodataset.org/#detection-eval)."""

SIZES = ("small", "medium", "large")

OVERLAPS = ("objects_hidden_by_others", "object_pixels_under_others")
"""Counts of the formats whose objects may overlap: what is lost, since a pixel has one segment."""


@dataclass
class _SourceCounts:
    """The counts of a source in a split."""

    images: int = 0
    pixels: int = 0
    void_by_union: int = 0
    by_class: Counter[int] = field(default_factory=Counter)
    """category_id -> pixels."""


class Statistics:
    """The counts of a split. Records are added one by one."""

    def __init__(self, categories: Sequence[Category], sources: Iterable[str]) -> None:
        self._categories = categories
        self._by_source = {source: _SourceCounts() for source in sorted(sources)}
        self._counts: Counter[str] = Counter()
        self._images: Counter[int] = Counter()
        self._segments: Counter[int] = Counter()
        self._pixels: Counter[int] = Counter()
        self._sizes: Counter[tuple[int, str]] = Counter()
        self._pixels_by_size: Counter[str] = Counter()
        self._sides: Counter[int] = Counter()
        self.empty: list[str] = []
        """A message for each picture that is left out because it has no segment of any class."""
        self.skipped: list[str] = []
        """A message for each picture that is left out because it can't be converted."""

    def add(self, record: Record) -> None:
        """Count a picture that was converted."""
        image, segments = record["image"], record["segments"]
        self._counts.update(images=1, segments=len(segments), pixels=image["height"] * image["width"])
        self._counts.update(record["counts"])
        source = self._by_source[image["source"]]
        source.images += 1
        source.pixels += image["height"] * image["width"]
        source.void_by_union += record["counts"]["union_px"]
        self._images.update({segment["category_id"] for segment in segments})
        for segment in segments:
            self._segments[segment["category_id"]] += 1
            self._pixels[segment["category_id"]] += segment["area"]
            source.by_class[segment["category_id"]] += segment["area"]
            self._counts["crowds"] += segment["iscrowd"]
            if "segmentation" in segment:
                self._counts["instances"] += 1
                size = SIZES[(segment["area"] >= SMALL_PX) + (segment["area"] >= LARGE_PX)]
                self._sizes[segment["category_id"], size] += 1
                self._pixels_by_size[size] += segment["area"]
                self._sides[side_px(segment["area"])] += 1

    def leave_out(self, record: Record) -> None:
        """Note the message of a picture that is left out."""
        self.empty += [record["empty"]] if "empty" in record else []
        self.skipped += [record["skipped"]] if "skipped" in record else []

    def summary(self) -> dict[str, int]:
        """Return the counts for the metrics file, which DVC compares between commits."""
        counts = {name: self._counts[name] for name in ("images", "segments", "crowds", "instances")}
        left_out = {"empty": len(self.empty), "skipped": len(self.skipped)}
        return {**counts, "classes_present": len(self._segments), **left_out}

    def content(self) -> dict[str, object]:
        """Return all counts, for statistics.json."""
        pixels = self._counts["pixels"]
        return {
            **self.summary(),
            "images_by_source": {name: source.images for name, source in self._by_source.items() if source.images},
            "void_pct": round(100 * (1 - self._pixels.total() / pixels), 3) if pixels else 0.0,
            "segments_of_dropped_classes": self._counts["dropped"],
            "segments_below_min_segment_px": self._counts["small"],
            "segments_lost_by_scaling": self._counts["lost"],
            **{name: self._counts[name] for name in OVERLAPS if name in self._counts},
            "images_with_exif_orientation": self._counts["turned"],
            "images_written_anew": self._counts["rewritten"],
            "instances_by_size": {
                size: sum(self._sizes[category["id"], size] for category in self._categories) for size in SIZES
            },
            # The square root of the area, by its limits: "16" is for 16 px to below 32 px.
            "instances_by_side_px": {str(side): self._sides[side] for side in sorted(self._sides)},
            "pixels_by_size": {size: self._pixels_by_size[size] for size in SIZES},
            "by_class": [
                {
                    "class": category["name"],
                    "isthing": category["isthing"],
                    "images": self._images[category["id"]],
                    "segments": self._segments[category["id"]],
                    "pixels": self._pixels[category["id"]],
                    "instances_by_size": {size: self._sizes[category["id"], size] for size in SIZES},
                }
                for category in self._categories
            ],
            "by_source": {
                name: {
                    "images": source.images,
                    "pixels": source.pixels,
                    "void_pixels": source.pixels - source.by_class.total(),
                    "void_pixels_of_unions": source.void_by_union,
                    "pixels_by_class": {c["name"]: source.by_class[c["id"]] for c in self._categories},
                }
                for name, source in self._by_source.items()
            },
            "empty_images": self.empty,
            "skipped_images": self.skipped,
        }


def side_px(area: int) -> int:
    """Return the largest power of 2, 1 or more, that is at most the square root of an area of 1 pixel or more."""
    return 1 << (area.bit_length() - 1) // 2
