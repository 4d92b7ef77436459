"""Whether the masks of a set are label * 256 + instance, as Vistas', or look like another set's coding.

Any 16-bit value is a label and a number of an object, so that a mask of another coding is read without an error as
other classes. What gives it away: the numbers of a label's objects run from 0 without gaps (Vistas' README), stuff has
number 0 alone, and no label fills a whole set. A number may be missing, as of an object that is hidden or that was lost
when the mask was scaled, so that the rules are shares of all masks that were looked at. Objects that are numbered from
1 all over the set, and stuff that has number 1 alone, are read rightly and are no problem.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.vistas.labels import Label

KEPT = 64
"""Masks whose values are kept to tell the coding by."""
MAX_FOREIGN_SHARE = 0.01
"""Of masks most of whose pixels have labels whose numbers can't be Vistas'."""
MAX_PIXEL_SHARE = 0.95
"""Of one label in all pixels. For stuff in configs of many classes alone: of two, one may be all but everything."""
MANY_CLASSES = 20
MIN_MISSING = 16
"""Numbers of objects that are missing, for gaps to tell anything."""
MAX_MISSING = 2
"""Missing numbers for each that is there. A quarter cut out of a picture has about one, a smaller part more."""
MAX_FROM_ONE = 0.3
"""Share of a label's objects in a mask that are 1, 2, ..., where others have 0."""
MIN_CASES = 3
"""Labels in masks, or masks, for their numbers to tell anything."""
MIN_SCORE = 0.9
"""Share of labels in masks that are as they should be, for a coding to be named."""
STRICT_SCORE = 0.95
"""The same, of masks as they are, up to which a coding is named that leaves no label out of order."""

_THING, _STUFF, _OTHER = 0, 1, 2

Values = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coding:
    """How another set's masks say label and object."""

    name: str
    split: Callable[[Values], tuple[Values, Values]]
    """Values -> labels and numbers of objects."""
    mend: str


CODINGS = (
    Coding(
        "label ids alone",
        lambda v: (v, 0 * v),
        "write id * 256, which makes one object of each label in a picture, or take the set's masks of instances",
    ),
    Coding(
        "Cityscapes' instanceIds (label * 1000 + instance, or the label alone)",
        lambda v: (np.where(v < 1000, v, v // 1000), np.where(v < 1000, 0, v % 1000)),
        "write label * 256 + instance",
    ),
    Coding("labels that count from 1", lambda v: ((v >> 8) - 1, v & 255), "write v - 256, or add a first label"),
    Coding(
        "label + 256 * instance, or swapped bytes",
        lambda v: (v & 255, v >> 8),
        "write (v % 256) * 256 + v // 256",
    ),
    Coding("label ids scaled from 8 to 16 bits", lambda v: (v // 257, v % 257), "write v // 257 * 256"),
)


@dataclass(frozen=True)
class _Groups:
    """The labels of a mask; arrays of the same length."""

    label: Values
    count: Values
    """Numbers of objects that are there."""
    low: Values
    high: Values
    """The lowest and the highest number."""
    pixels: Values

    def orderly(self, kinds: Values) -> npt.NDArray[np.bool_]:
        """Whether each label's numbers can be Vistas', by the kind of each label."""
        whole = (self.high - self.low + 1 == self.count) & (self.low <= 1)
        inside = (self.label >= 0) & (self.label < len(kinds))
        stuff = kinds[np.where(inside, self.label, 0)] == _STUFF
        return np.asarray(inside & whole & ~(stuff & (self.count > 1)))


def _groups(labels: Values, numbers: Values, pixels: Values) -> _Groups:
    order = np.lexsort((numbers, labels))
    labels, numbers, pixels = labels[order], numbers[order], pixels[order]
    label, first, count = np.unique(labels, return_index=True, return_counts=True)
    last = first + count - 1
    # In some codings two values are the same object, as an object's of number 0 and a group.
    new = np.append(True, (np.diff(labels) != 0) | (np.diff(numbers) != 0)).astype(np.int64)
    return _Groups(label, np.add.reduceat(new, first), numbers[first], numbers[last], np.add.reduceat(pixels, first))


def _vistas(values: Values) -> tuple[Values, Values]:
    return values >> 8, values & 255


class Masks:
    """What the masks of a set hold, added one by one."""

    def __init__(self, labels: Sequence[Label]) -> None:
        """`labels` are the set's."""
        self._labels = labels
        self._kinds = np.array(
            [_THING if x.instances else _STUFF if x.evaluate else _OTHER for x in labels], dtype=np.int64
        )
        # What is no class has no objects in Vistas either; sets may have left their numbers where labels were dropped.
        self._strict = np.where(self._kinds == _OTHER, _STUFF, self._kinds)
        self._masks = 0
        self._highest = 0
        self._outside: list[tuple[str, int]] = []
        self._foreign: list[str] = []
        self._pixels = np.zeros(256, np.int64)
        self._stuff, self._numbered = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self._cases = self._with_zero = self._from_one = 0
        self._missing, self._present = np.zeros(2, np.int64), 0
        self._several = self._disjoint = 0
        self._kept: list[tuple[Values, Values]] = []
        self._kept_foreign: list[tuple[Values, Values]] = []

    def add(self, name: str, values: npt.ArrayLike, pixels: npt.ArrayLike) -> None:
        """Add a mask: the values that are in it, each once, and the pixels of each. `name` is for messages."""
        values, pixels = np.asarray(values, np.int64), np.asarray(pixels, np.int64)
        labels, numbers = _vistas(values)
        groups = _groups(labels, numbers, pixels)
        self._masks += 1
        self._highest = max(self._highest, int(values.max()))
        if (top := int(groups.label.max())) >= len(self._kinds):
            self._outside.append((name, top))
        self._pixels[groups.label] += groups.pixels
        orderly = groups.orderly(self._kinds)
        foreign = int(groups.pixels[~orderly].sum()) * 2 > int(groups.pixels.sum())
        if foreign:
            self._foreign.append(name)
        kept = self._kept_foreign if foreign else self._kept
        if len(kept) < KEPT:
            kept.append((values, pixels))

        inside = groups.label < len(self._kinds)
        kinds = np.where(inside, self._kinds[np.where(inside, groups.label, 0)], _OTHER)
        stuff, thing = kinds == _STUFF, kinds == _THING
        self._stuff[groups.label[stuff]] += 1
        self._numbered[groups.label[stuff & ~orderly]] += 1
        self._with_zero += int((groups.low[thing] == 0).sum())
        self._from_one += int((orderly & (groups.low == 1))[thing].sum())
        self._cases += int(thing.sum())
        self._present += int(groups.count[thing].sum())
        for first in (0, 1):
            self._missing[first] += int((groups.high[thing] + 1 - first - groups.count[thing]).sum())
        if thing.sum() > 1:
            of_things = numbers[np.isin(labels, groups.label[thing])]
            self._several += 1
            self._disjoint += len(np.unique(of_things)) == len(of_things)

    def problem(self) -> str:
        """What is not as in Vistas' masks and what it looks like, in a line; empty where nothing is."""
        found = self._found() if self._masks else []
        if not found:
            return ""
        coding = CODINGS[0] if 0 < self._highest < 256 else _coding(self._kept_foreign or self._kept, self._strict)
        said = f"{'; '.join(found[: 1 if coding else 2])}. {_told(coding)}"
        return f"masks that can't be label * 256 + instance: {said}. If they are right, set data.check_masks to warn"

    def _found(self) -> list[str]:
        found = []
        count = len(self._kinds)
        if self._outside:
            name, label = max(self._outside, key=lambda pair: pair[1])
            found.append(
                f"label {label} in {name}, but the config has {count}, 0 to {count - 1} "
                f"({len(self._outside)} of {self._masks} masks have others)"
            )
        # 0 alone is the same in every coding.
        if 0 < self._highest < 256 and count > 1:
            first = self._labels[0].name
            beyond = f", and go to {self._highest}, beyond the config's {count} labels" * (self._highest >= count)
            return [
                f"all values of {self._masks} masks are below 256, so that every pixel is label 0, {first!r}{beyond}"
            ]
        if len(self._foreign) > MAX_FOREIGN_SHARE * self._masks:
            found.append(
                f"in {len(self._foreign)} of {self._masks} masks, such as {self._foreign[0]}, most pixels have labels "
                "whose objects' numbers have gaps, or stuff with objects"
            )
        found += self._stuff_with_objects() + self._numbers() + self._filling()
        return found or self._only_so()

    def _only_so(self) -> list[str]:
        """For codings that nothing else gives away: in one of them every label is in order, and not as it is."""
        cases = sum(len(np.unique(values >> 8)) for values, _ in self._kept)
        own = _score(_vistas, self._kept, self._strict)
        wrong = round((1 - own) * cases)
        if own > STRICT_SCORE or wrong < MIN_CASES:
            return []
        exact = [c.name for c in CODINGS if _score(c.split, self._kept, self._strict) == 1]
        return [f"in {wrong} of {cases} cases a label that is no thing has several objects"] if exact else []

    def _stuff_with_objects(self) -> list[str]:
        numbered = np.flatnonzero(self._numbered * 2 > self._stuff)
        if not len(numbered):
            return []
        label = int(numbered[np.argmax(self._numbered[numbered])])
        others = f", and {len(numbered) - 1} labels more" * (len(numbered) > 1)
        return [
            f"label {label}, {self._labels[label].name!r}, is stuff in the config, but has objects in "
            f"{self._numbered[label]} of {self._stuff[label]} masks{others} (if they are objects: instances is true)"
        ]

    def _numbers(self) -> list[str]:
        first = 0 if self._with_zero else 1
        missing = int(self._missing[first])
        found = []
        if missing >= MIN_MISSING and missing > MAX_MISSING * self._present:
            found.append(
                f"objects' numbers have gaps: of those from {first} to each label's highest, {missing} are missing and "
                f"{self._present} there, as in cuttings of larger masks"
            )
        if self._with_zero and self._from_one >= MIN_CASES and self._from_one > MAX_FROM_ONE * self._cases:
            found.append(
                f"a label's objects are numbered from 1 in {self._from_one} of {self._cases} cases and from 0 in "
                f"{self._with_zero}, so that 0 may be no object, as in KITTI, where it is a group (give groups a label "
                "of their own)"
            )
        if self._disjoint >= MIN_CASES and self._disjoint > MIN_SCORE * self._several:
            found.append(
                f"in {self._disjoint} of {self._several} masks with several labels of objects no two have a number in "
                "common, so that numbers may run over the whole picture"
            )
        return found

    def _filling(self) -> list[str]:
        label = int(np.argmax(self._pixels))
        share = self._pixels[label] / self._pixels.sum()
        if share <= MAX_PIXEL_SHARE or label >= len(self._labels) or not self._labels[label].evaluate:
            return []
        evaluated = sum(x.evaluate for x in self._labels)
        if evaluated < 2 or (self._kinds[label] == _STUFF and evaluated < MANY_CLASSES):
            return []
        name = self._labels[label].name
        return [f"label {label}, {name!r}, has {100 * share:.0f} % of all pixels of {self._masks} masks"]


def _coding(masks: list[tuple[Values, Values]], kinds: Values) -> Coding | None:
    """The coding that masks are in, if they are in one of CODINGS and not in Vistas'."""
    scores = [_score(coding.split, masks, kinds) for coding in CODINGS]
    best = int(np.argmax(scores))
    return CODINGS[best] if scores[best] >= MIN_SCORE and scores[best] > _score(_vistas, masks, kinds) else None


def _told(coding: Coding | None) -> str:
    if coding is None:
        return "Expected each label's objects numbered from 0, as in Vistas' folder instances (docs/data.md)"
    return f"They look like {coding.name}: {coding.mend}"


def looks_like(values: npt.ArrayLike, num_labels: int) -> str:
    """What the values of one mask look like that has a label beyond the config's `num_labels`."""
    one = np.asarray(values, np.int64)
    return _told(_coding([(one, np.ones_like(one))], np.full(num_labels, _OTHER)))


def _score(
    split: Callable[[Values], tuple[Values, Values]], masks: list[tuple[Values, Values]], kinds: Values
) -> float:
    """Share of the labels of all masks whose numbers are in order if they are coded so; 0 where a label is none."""
    right = count = 0
    for values, pixels in masks:
        groups = _groups(*split(values), pixels)
        if groups.label.min() < 0 or groups.label.max() >= len(kinds):
            return 0.0
        right += int(groups.orderly(kinds).sum())
        count += len(groups.label)
    return right / count if count else 0.0
