"""The figures of data/metrics for a review: names, units, which direction is better, and limits of params.yaml.

The only table of them for reviews. A figure that isn't listed is shown by its key, without a direction.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.review import lock


@dataclass(frozen=True)
class Figure:
    """A figure of a metrics file, and its format."""

    files: str
    """Regular expression of the files' names in data/metrics, without .json. Its group is the variant or target."""
    key: str
    """Dotted key in the file."""
    name: str
    unit: str = ""
    better: int = 0
    """1: higher is better. -1: lower is better. 0: neither."""
    decimals: int = 2
    """Places that are shown. Smaller differences are none."""
    at_least: str = ""
    """Key of the parameter that is its lower limit."""
    at_most: str = ""
    """Key of the parameter that is the upper limit of its magnitude."""
    factor: float = 1
    """From the file's unit to the unit shown."""
    timing: bool = False
    """A time of a machine: compared only with the same machine's."""
    main: bool = False
    """Shown at once, and not in the folded part."""


UP, DOWN = 1, -1
PARTS = {"": "", "partly": ", classes labelled in part", "protocol": ", its own evaluation"}
"""Parts of a source's figures in evaluate.json -> what follows the source's name."""
_OF_SOURCE = re.compile(r"by_source\.(.+?)\.(?:(partly|protocol)\.)?((?:all|things|stuff|semantic|instance)\.\w+)")
MACHINE = ("host.name", "host.cpu", "host.gpu", "host.gpu.name")
"""Keys that identify a machine in benchmark_TARGET.json."""
_GRAPH = r"(?:export|simplify)_(.+)"


def _timings() -> list[Figure]:
    found = []
    for who, label in (("engine", "engine"), ("eager", "PyTorch eager")):
        for scope, where in (("end_to_end", "end to end"), ("network", "network")):
            for p in (50, 90, 99):
                main = who == "engine" and scope == "end_to_end" and p != 90
                name, key = f"latency p{p}, {label}, {where}", f"{who}.{scope}.p{p}_ms"
                found.append(Figure("benchmark_(.+)", key, name, "ms", DOWN, timing=True, main=main))
            main = who == "engine" and scope == "end_to_end"
            name, key = f"rate, {label}, {where}", f"{who}.{scope}.hz"
            found.append(Figure("benchmark_(.+)", key, name, "Hz", UP, 1, timing=True, main=main))
    speedup = Figure("benchmark_(.+)", "speedup_end_to_end", "speed-up over PyTorch", "x", UP, timing=True, main=True)
    return [*found, speedup]


FIGURES = [
    Figure("evaluate", "all.pq", "PQ", "/ 100", UP, main=True),
    Figure("evaluate", "semantic.miou", "mIoU", "%", UP, main=True),
    Figure("evaluate", "instance.ap", "AP", "/ 100", UP, main=True),
    Figure("evaluate", "things.pq", "PQ of things", "/ 100", UP),
    Figure("evaluate", "stuff.pq", "PQ of stuff", "/ 100", UP),
    *(
        Figure("evaluate", f"{part}.{key}", f"{key.upper()}{of}", "/ 100", UP)
        for part, of in (("all", ""), ("things", " of things"), ("stuff", " of stuff"))
        for key in ("sq", "rq")
    ),
    Figure("evaluate", "semantic.pixel_accuracy", "pixel accuracy", "%", UP),
    *(
        Figure("evaluate", f"instance.{key}", name, "/ 100", UP)
        for key, name in (
            ("ap50", "AP at IoU 0.5"),
            ("ap75", "AP at IoU 0.75"),
            ("ap_small", "AP of small objects"),
            ("ap_medium", "AP of medium objects"),
            ("ap_large", "AP of large objects"),
        )
    ),
    Figure("evaluate", "tao.val_miou", "TAO's mIoU", "%", UP),
    Figure("evaluate", "tao.val_pixel_accuracy", "TAO's pixel accuracy", "%", UP),
    Figure("train", "val_loss", "validation loss", "", DOWN, 3, main=True),
    Figure("train", "train_loss", "training loss", "", DOWN, 3),
    Figure("train", "val_miou", "TAO's mIoU at the end of training", "%", UP, factor=100),
    Figure("train", "val_pixel_accuracy", "TAO's pixel accuracy at the end of training", "%", UP, factor=100),
    Figure("train", "epoch", "epoch of the checkpoint", "", 0, 0),
    Figure("train", "epochs", "epochs trained", "", 0, 0),
    Figure("data", "train.images", "training pictures", "", 0, 0, main=True),
    Figure("data", "val.images", "validation pictures", "", 0, 0, main=True),
    Figure("data", "train.skipped", "skipped training pictures", "", DOWN, 0, main=True),
    Figure("data", "val.skipped", "skipped validation pictures", "", DOWN, 0, main=True),
    Figure(
        _GRAPH, "pixel_agreement_pct", "agreement with TAO", "%", UP, 3, "deploy.min_pixel_agreement_pct", main=True
    ),
    Figure(
        _GRAPH,
        "logit_difference_p99",
        "logit difference p99",
        "",
        DOWN,
        6,
        "",
        "deploy.max_logit_difference",
        main=True,
    ),
    Figure(_GRAPH, "logit_difference_max", "largest logit difference", "", DOWN, 6),
    Figure("precision_(.+)", "pixel_agreement_pct", "agreement with TAO", "%", UP, 3, main=True),
    *(
        Figure(
            "precision_(.+)",
            f"{what}_probability_difference_p999",
            f"{what} probability difference p99.9",
            "",
            DOWN,
            5,
            at_most="deploy.max_score_difference",
            main=True,
        )
        for what in ("class", "mask")
    ),
    *(
        Figure(
            "precision_(.+)", f"{what}_probability_difference_max", f"largest {what} probability difference", "", -1, 5
        )
        for what in ("class", "mask")
    ),
    Figure(r"(?:export|simplify|precision)_(.+)", "nodes", "nodes of the graph", "", 0, 0),
    Figure(r"(?:export|simplify|precision)_(.+)", "bytes", "size of the graph", "MB", 0, 2, factor=1e-6),
    Figure("engine_(.+)", "bytes", "size of the engine", "MB", DOWN, 2, factor=1e-6, main=True),
    Figure(
        "verify_(.+)",
        "pixel_agreement_pct",
        "agreement with the checkpoint",
        "%",
        UP,
        3,
        "verify.min_pixel_agreement_pct",
        main=True,
    ),
    Figure("verify_(.+)", "worst_picture_agreement_pct", "agreement of the worst picture", "%", UP, 3, main=True),
    Figure("verify_(.+)", "pq", "PQ of the engine", "/ 100", UP, main=True),
    Figure("verify_(.+)", "checkpoint_pq", "PQ of the checkpoint", "/ 100", UP),
    Figure(
        "verify_(.+)", "pq_difference", "PQ difference", "/ 100", DOWN, 3, at_most="verify.max_pq_difference", main=True
    ),
    *_timings(),
]


@dataclass(frozen=True)
class Change:
    """A figure before and after. A side is None where it has no such figure."""

    figure: Figure
    of: str
    """The variant, the target or the source, or empty."""
    before: float | None
    after: float | None
    limit: str
    """Such as ">= 99.5", or empty."""
    is_beyond: bool
    """True if the new value is beyond its limit."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or empty where neither is known. A figure with at_most is judged by its magnitude."""
        if self.before is None or self.after is None or not self.figure.better:
            return ""
        old, new = (abs(v) if self.figure.at_most else v for v in (self.before, self.after))
        return "" if new == old else ("better" if (new > old) == (self.figure.better > 0) else "worse")

    def value(self, value: float | None) -> str:
        """Return a value as it is shown, without unit."""
        return "-" if value is None else f"{value * self.figure.factor:,.{self.figure.decimals}f}"

    @property
    def difference(self) -> str:
        """Return the signed difference as it is shown; empty where a side is None."""
        if self.before is None or self.after is None:
            return ""
        return f"{(self.after - self.before) * self.figure.factor:+,.{self.figure.decimals}f}"


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], params: Mapping[str, Any]
) -> tuple[list[Change], list[str]]:
    """Return the figures that changed as they are shown, in the order of FIGURES.

    Also returned are the targets whose timings differ and are left out, as they are of two machines.

    before, after: content of the files in data/metrics by their names without .json. params: the new params.yaml.
    """
    flat_params = lock.flat(params)
    found: list[tuple[int, Change]] = []
    other_machines = []
    for stem in {**before, **after}:
        old, new = lock.flat(before.get(stem, {})), lock.flat(after.get(stem, {}))
        is_same_machine = not (old and new) or same_machine(before[stem], after[stem])
        for key in {**new, **old}:
            if key.startswith(("host.", "built.")) or not any(_number(side.get(key)) for side in (old, new)):
                continue
            place, figure, of = _figure(stem, key)
            one, other = (side.get(key) if _number(side.get(key)) else None for side in (old, new))
            limit, is_beyond = _limit(figure, other, flat_params)
            change = Change(figure, of, one, other, limit, is_beyond)
            if change.value(one) == change.value(other):
                continue
            if figure.timing and not is_same_machine:
                other_machines.append(of)
            else:
                found.append((place, change))
    found.sort(key=lambda item: item[0])
    return [change for _, change in found], list(dict.fromkeys(other_machines))


def same_machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether two files of benchmark are of one machine: its name and its hardware are recorded and equal.

    The model of a processor alone doesn't tell: many machines have it.
    """
    hosts = [lock.flat({"host": side.get("host") or {}}) for side in (before, after)]
    one, other = ({key: host.get(key) for key in MACHINE} for host in hosts)
    return bool(one["host.name"]) and one == other


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _figure(stem: str, key: str) -> tuple[int, Figure, str]:
    """Return place in the order, figure, and variant, target or source of a key in a file."""
    source = ""
    if stem == "evaluate" and (found := _OF_SOURCE.fullmatch(key)):
        source, key = found[1] + PARTS[found[2] or ""], found[3]
    for place, figure in enumerate(FIGURES):
        match = re.fullmatch(figure.files, stem)
        if match and figure.key == key:
            # The stage too, where several have the same figure.
            of = (stem if "|" in figure.files else match[1]) if match.groups() else source
            return place, figure, of
    return len(FIGURES), Figure(re.escape(stem), key, f"{stem}: {key}", decimals=4), source


def _limit(figure: Figure, value: float | None, params: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the text of a figure's limit, and whether a value is beyond it."""
    low, high = params.get(figure.at_least), params.get(figure.at_most)
    if isinstance(low, (int, float)):
        return f">= {low}", value is not None and value < low
    if isinstance(high, (int, float)):
        return f"<= {high}", value is not None and abs(value) > high
    return "", False
