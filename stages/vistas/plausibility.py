"""Checks whether the masks of a set are label * 256 + instance, as in Vistas, or probably another set's coding.

Any 16-bit value can be read as a label and an instance number. So masks of another coding would give wrong classes
without an error. In Vistas (README of the set) the numbers of a label's objects run from 0 without gaps, stuff has only
number 0, and no label fills the whole set. Masks that break these rules are probably of another coding.

A correct set can break the rules in some masks: a number is missing where an object is hidden, or was lost when the
mask was scaled, and annotators make slips. So each limit below is a share of all masks together with a least number of
cases: a single picture proves nothing, and neither does a close-up in a split of few pictures. Objects that are
numbered from 1 in the whole set, and stuff that has only number 1, are read correctly and are not a problem.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.vistas.codings import CODINGS, Coding, Values
from stages.vistas.labels import Label

KEPT_MASKS = 64
"""Masks whose values are kept, to find out their coding."""
MAX_FOREIGN_SHARE = 0.01
"""Largest share of masks in which most pixels have labels that break the rules, or one stuff label has objects."""
MAX_PIXEL_SHARE = 0.95
"""Largest share of one label in all pixels. Stuff may have more if the config evaluates few classes."""
MIN_MASKS = 8
"""Fewest masks for which the share of one label says something about the set, not about a few pictures."""
MANY_CLASSES = 20
"""Number of evaluated classes from which MAX_PIXEL_SHARE applies to stuff too."""
MIN_MISSING = 16
"""Fewest missing instance numbers that can be a problem. They must lie in MIN_CASES gaps or more."""
MAX_MISSING = 2
"""Largest ratio of missing to present numbers. A crop of a quarter of each picture has about 1, a smaller crop more."""
MAX_FROM_ONE = 0.3
"""Largest share of cases (a thing label in a mask) whose numbers begin at 1, if those of others begin at 0."""
MIN_CASES = 3
"""Fewest masks, labels of a mask or gaps between numbers that can be a problem. One or two may be slips."""
MAX_DISJOINT = 0.9
"""Largest share of masks with several thing labels in which no two labels have a number in common."""
STRICT_SCORE = 0.95
"""Largest share of labels in masks that keep the rules when read as Vistas', for another coding to be suspected."""

_THING, _STUFF, _OTHER = 0, 1, 2
"""Kinds of labels: with instances; evaluated and without; the rest."""


@dataclass(frozen=True)
class _Groups:
    """The labels of a mask: arrays with an element for each label that occurs."""

    label: Values
    count: Values
    """Number of objects."""
    low: Values
    """Lowest instance number."""
    high: Values
    """Highest instance number."""
    pixels: Values
    """Number of pixels."""

    def orderly(self, kinds: Values) -> npt.NDArray[np.bool_]:
        """Return whether each label's numbers keep Vistas' rules. `kinds` has the kind of each label of the config."""
        whole = (self.high - self.low + 1 == self.count) & (self.low <= 1)
        inside = (self.label >= 0) & (self.label < len(kinds))
        stuff = kinds[np.where(inside, self.label, 0)] == _STUFF
        return np.asarray(inside & whole & ~(stuff & (self.count > 1)))


def _groups(labels: Values, numbers: Values, pixels: Values) -> _Groups:
    """Group the values of a mask by label. The arrays have an element for each value."""
    order = np.lexsort((numbers, labels))
    labels, numbers, pixels = labels[order], numbers[order], pixels[order]
    label, first, count = np.unique(labels, return_index=True, return_counts=True)
    last = first + count - 1
    # In some codings two values are the same object, such as 26 and 26000 in Cityscapes'.
    new = np.append(True, (np.diff(labels) != 0) | (np.diff(numbers) != 0)).astype(np.int64)
    return _Groups(label, np.add.reduceat(new, first), numbers[first], numbers[last], np.add.reduceat(pixels, first))


def _gaps(labels: Values, numbers: Values, first: int) -> int:
    """Return how often a number does not follow on the last one of its label. A label's numbers begin at `first`."""
    order = np.lexsort((numbers, labels))
    labels, numbers = labels[order], numbers[order]
    begins = np.append(True, np.diff(labels) != 0)
    before = np.where(begins, first - 1, np.append(0, numbers[:-1]))
    return int((numbers > before + 1).sum())


def _vistas(values: Values) -> tuple[Values, Values]:
    """Split values as Vistas encodes them."""
    return values >> 8, values & 255


class MaskStatistics:
    """Counts of the labels and instance numbers in the masks of a set. Masks are added one by one."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = labels
        self._kinds = np.array(
            [_THING if x.instances else _STUFF if x.evaluate else _OTHER for x in labels], dtype=np.int64
        )
        # Labels without a class have no objects in Vistas either. But a set may have switched off a class and kept the
        # numbers of its objects. So this rule decides only which coding is named.
        self._strict = np.where(self._kinds == _OTHER, _STUFF, self._kinds)
        self._masks = 0
        self._highest = 0
        self._outside: list[tuple[str, int]] = []
        self._foreign: list[str] = []
        self._thoroughly_foreign = 0
        self._most_numbers = 0
        self._pixels = np.zeros(256, np.int64)
        self._stuff, self._numbered = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self._cases = self._with_zero = self._from_one = 0
        self._missing, self._gaps, self._present = np.zeros(2, np.int64), np.zeros(2, np.int64), 0
        self._several = self._disjoint = 0
        self._kept: list[tuple[Values, Values]] = []
        self._kept_foreign: list[tuple[Values, Values]] = []

    def add(self, name: str, values: npt.ArrayLike, pixels: npt.ArrayLike) -> None:
        """Add a mask by its distinct values and the number of pixels of each. `name` is its path, for messages."""
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
            ids = values.max() < 256 and len(values) >= MIN_CASES
            self._thoroughly_foreign += bool(ids or (~orderly).sum() >= MIN_CASES)
        self._most_numbers = max(self._most_numbers, int(groups.count.max()))
        kept = self._kept_foreign if foreign else self._kept
        if len(kept) < KEPT_MASKS:
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
        of_thing = np.isin(labels, groups.label[thing])
        for first in (0, 1):
            self._missing[first] += int((groups.high[thing] + 1 - first - groups.count[thing]).sum())
            self._gaps[first] += _gaps(labels[of_thing], numbers[of_thing], first)
        if thing.sum() > 1:
            of_things = numbers[of_thing]
            self._several += 1
            self._disjoint += len(np.unique(of_things)) == len(of_things)

    def problem(self) -> str:
        """Return one line: which rules the masks break, and what coding they look like. Empty if they keep them."""
        found = self._broken_rules() if self._masks else []
        if not found:
            return ""
        suspects = self._kept_foreign or self._kept
        coding = _coding(suspects, self._strict)
        advice = _advice(coding, np.unique(np.concatenate([values for values, _ in suspects])))
        if 0 < self._highest < 256:
            # Ids of another list of labels are ids too, but multiplying them by 256 is not enough to make them right.
            other = ", but not those of this config: use the config of these masks"
            advice = f"They look like {CODINGS[0].name}{other * (self._highest >= len(self._kinds))}: {CODINGS[0].fix}"
        details = f"{'; '.join(found[: 1 if coding else 2])}. {advice}"
        step = "If the masks are right, set data.check_masks to warn"
        return f"masks that can't be label * 256 + instance: {details}. {step}"

    def _broken_rules(self) -> list[str]:
        """Return a text for each rule that the masks break."""
        found = []
        count = len(self._kinds)
        if self._outside:
            name, label = max(self._outside, key=lambda pair: pair[1])
            found.append(
                f"label {label} in {name}, but the config has {count}, 0 to {count - 1} "
                f"({len(self._outside)} of {self._masks} masks have such labels)"
            )
        # Masks with no value but 0 are the same in every coding.
        if 0 < self._highest < 256 and count > 1 and not self._may_be_one_label():
            first = self._labels[0].name
            beyond = f", and go to {self._highest}, beyond the config's {count} labels" * (self._highest >= count)
            return [
                f"all values of {self._masks} masks are below 256, so that every pixel is label 0, {first!r}{beyond}"
            ]
        if self._foreign_masks_count():
            found.append(
                f"in {len(self._foreign)} of {self._masks} masks, such as {self._foreign[0]}, most pixels have labels "
                "whose objects' numbers have gaps, or stuff with objects"
            )
        found += self._stuff_with_objects() + self._numbers() + self._dominant_label()
        return found or self._better_coding()

    def _may_be_one_label(self) -> bool:
        """Return whether the masks can be pictures of only one or two objects of label 0."""
        few = self._masks < MIN_CASES and self._most_numbers < MIN_CASES
        return few and self._highest < 256 and bool(self._kinds[0] == _THING)

    def _foreign_masks_count(self) -> bool:
        """Return whether the foreign masks are a problem of the set.

        One or two may be pictures whose largest objects have lost a neighbour's number, unless MIN_CASES of their
        labels break the rules, or another coding explains them and they are most of the masks.
        """
        foreign = len(self._foreign)
        if foreign <= MAX_FOREIGN_SHARE * self._masks:
            return False
        if foreign >= MIN_CASES or self._thoroughly_foreign:
            return True
        most = foreign * 2 > self._masks and not self._may_be_one_label()
        return most and _coding(self._kept_foreign, self._strict) is not None

    def _better_coding(self) -> list[str]:
        """Find a coding that breaks no other rule: labels keep the rules by it, and many break them otherwise."""
        cases = sum(len(np.unique(values >> 8)) for values, _ in self._kept)
        own = _score(_vistas, self._kept, self._strict)
        wrong = round((1 - own) * cases)
        if own > STRICT_SCORE or wrong < MIN_CASES:
            return []
        exact = _coding(self._kept, self._strict)
        return [f"in {wrong} of {cases} cases a label without instances has several objects"] if exact else []

    def _stuff_with_objects(self) -> list[str]:
        """Find stuff that has several objects in more than half of its masks, and in enough masks to be no slip."""
        enough = max(MIN_CASES, MAX_FOREIGN_SHARE * self._masks)
        numbered = np.flatnonzero((self._numbered * 2 > self._stuff) & (self._numbered >= enough))
        if not len(numbered):
            return []
        label = int(numbered[np.argmax(self._numbered[numbered])])
        others = f", like {len(numbered) - 1} other labels" * (len(numbered) > 1)
        return [
            f"label {label}, {self._labels[label].name!r}, is stuff in the config, but has objects in "
            f"{self._numbered[label]} of {self._stuff[label]} masks{others} (if that is right, set instances to true "
            "in the config)"
        ]

    def _numbers(self) -> list[str]:
        """Find gaps between instance numbers, numbers that begin at 1 or 0, and numbers that run over the picture."""
        first = 0 if self._with_zero else 1
        missing = int(self._missing[first])
        found = []
        enough = missing >= MIN_MISSING and self._gaps[first] >= MIN_CASES
        if enough and missing > MAX_MISSING * self._present:
            found.append(
                f"objects' numbers have gaps: of those from {first} to each label's highest, {missing} are missing and "
                f"{self._present} are present, as in crops of larger masks"
            )
        if self._with_zero and self._from_one >= MIN_CASES and self._from_one > MAX_FROM_ONE * self._cases:
            found.append(
                f"a label's objects are numbered from 1 in {self._from_one} of {self._cases} cases and from 0 in "
                f"{self._with_zero}, so 0 may not be an object, as in KITTI, where it is a group (give groups a label "
                "of their own)"
            )
        if self._disjoint >= MIN_CASES and self._disjoint > MAX_DISJOINT * self._several:
            found.append(
                f"in {self._disjoint} of {self._several} masks with objects of several labels no two labels have a "
                "number in common, so the numbers may run over the whole picture"
            )
        return found

    def _dominant_label(self) -> list[str]:
        """Find a label that has nearly all pixels."""
        label = int(np.argmax(self._pixels))
        share = self._pixels[label] / self._pixels.sum()
        if share <= MAX_PIXEL_SHARE or label >= len(self._labels) or not self._labels[label].evaluate:
            return []
        evaluated = sum(x.evaluate for x in self._labels)
        if evaluated < 2 or (self._kinds[label] == _STUFF and evaluated < MANY_CLASSES):
            return []
        # A close-up, or a picture of the sky, can be a split of its own. Few masks need another sign.
        if self._masks < MIN_MASKS and (
            self._most_numbers < MIN_CASES or _coding(self._kept, self._strict, better=False) is None
        ):
            return []
        name = self._labels[label].name
        return [f"label {label}, {name!r}, has {100 * share:.0f} % of all pixels of {self._masks} masks"]


def _coding(masks: list[tuple[Values, Values]], kinds: Values, better: bool = True) -> Coding | None:
    """Return the first of CODINGS that explains every value of the masks, or None if none does.

    With `better` only where Vistas' own coding does not explain them too.
    """
    if better and _score(_vistas, masks, kinds) == 1:
        return None
    return next((coding for coding in CODINGS if _score(coding.split, masks, kinds) == 1), None)


def _advice(coding: Coding | None, values: Values) -> str:
    """Return a sentence on what masks are that hold these distinct values, in ascending order."""
    if coding is None:
        few = [str(value) for value in values[:3].tolist()] + (["..."] if len(values) > 4 else [])
        found = ", ".join([*few, *(str(value) for value in values[3:][-1:].tolist())])
        return (
            f"Found values: {found}. Expected each label's objects numbered from 0, as in Vistas' folder "
            "instances (docs/data.md)"
        )
    return f"They look like {coding.name}: {coding.fix}"


def looks_like(values: npt.ArrayLike, num_labels: int) -> str:
    """Return a sentence about the probable coding of one mask, by its distinct values."""
    one = np.asarray(values, np.int64)
    return _advice(_coding([(one, np.ones_like(one))], np.full(num_labels, _OTHER)), np.unique(one))


def _score(
    split: Callable[[Values], tuple[Values, Values]], masks: list[tuple[Values, Values]], kinds: Values
) -> float:
    """Return the share of labels in masks that keep the rules if `split` reads the values.

    It is 0 for an unknown label. It is also 0 if another coding than Vistas' finds only one label in several values,
    because it could read any values that way.
    """
    orderly = count = 0
    found = set[int]()
    several = False
    for values, pixels in masks:
        groups = _groups(*split(values), pixels)
        if groups.label.min() < 0 or groups.label.max() >= len(kinds):
            return 0.0
        orderly += int(groups.orderly(kinds).sum())
        count += len(groups.label)
        found.update(groups.label.tolist())
        several |= len(values) > 1
    empty = split is not _vistas and several and len(found) == 1
    return orderly / count if count and not empty else 0.0
