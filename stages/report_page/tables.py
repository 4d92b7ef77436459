"""Makes the numbers of the page, as rows for the templates."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from stages import config
from stages.report_page import confusion
from stages.report_page.sources import Sources, precisions
from stages.report_page.targets import State, TargetState

MAX_CLASSES = 30
"""Classes in the table of the data and in the confusion matrix. Vistas has more than are legible."""
MAX_CONFUSIONS = 8
"""Rows of the largest confusions."""
SCOPES = {"End to end": "end_to_end", "Network": "network"}
"""Headings of what is timed, with the keys in the files."""
PACKAGES = {
    "TAO": "nvidia-tao-pytorch",
    "PyTorch": "torch",
    "ONNX": "onnx",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "TensorRT-RTX": "tensorrt-rtx-cu13-bindings",
    "DVC": "dvc",
}
"""Packages whose versions the page names."""


def number(value: float | None, decimals: int = 1) -> str:
    """Format a number with thousands separators and a true minus sign; None is a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign. A number that rounds to 0 has none."""
    text = number(abs(value), decimals)
    if not any(digit in text for digit in "123456789"):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def scientific(value: float | None) -> str:
    """Format a small difference with two significant digits, such as 4.2e-05; None is empty."""
    return "" if value is None else f"{value:.1e}"


def short(name: str) -> str:
    """Return a Vistas label name without its first level: object--vehicle--car becomes vehicle / car."""
    return " / ".join(name.split("--")[1:]) or name


def _accuracy(evaluated: Any, mode: config.Mode) -> list[dict[str, str]]:
    """Return the tiles of the figures that a network of this mode has."""
    kinds = {
        "all": ("PQ", "pq", "/ 100", "panoptic quality of the checkpoint"),
        "semantic": ("mIoU", "miou", "%", "mean IoU of the checkpoint's semantic maps"),
        "instance": ("AP", "ap", "/ 100", "COCO's mask AP of the checkpoint's instances"),
    }
    wanted = list(kinds) if mode is config.Mode.panoptic else [mode.value]
    found = []
    for part in wanted:
        label, key, unit, caption = kinds[part]
        value = (evaluated or {}).get(part, {}).get(key)
        found.append(
            _tile(label, "" if value is None else number(value), unit, caption if evaluated else "evaluate has not run")
        )
    return found


def tiles(sources: Sources) -> list[dict[str, str]]:
    """Return the key figures: label, value, unit, caption. A value is empty where its stage has not run."""
    evaluated, name = sources.metric("evaluate"), next(iter(sources.cfg.runnable), "")
    state = sources.states.get(name)
    verified, timed = (state.verified, state.timed) if state else (None, None)
    engine, deploy = f"engine {name}", sources.cfg.deploy
    absent = f"no figures of {engine}" if name else "no target is runnable here"
    speedup = timed.get("speedup_end_to_end") if timed else None
    return [
        *_accuracy(evaluated, sources.cfg.model.mode),
        _tile(
            "Agreement",
            number(verified["pixel_agreement_pct"], 3) if verified else "",
            "%",
            f"pixels where {engine} and checkpoint agree" if verified else absent,
        ),
        _tile(
            "Rate",
            number(timed["engine"]["end_to_end"]["hz"]) if timed else "",
            "Hz",
            f"{engine}, decoded picture to {deploy.mode.value} map, batch {deploy.batch_size}" if timed else absent,
        ),
        _tile(
            "Speed-up",
            "" if speedup is None else number(speedup, 2),
            "×",  # noqa: RUF001
            absent if speedup is None else f"{engine} over PyTorch eager, end to end",
        ),
    ]


def _tile(label: str, value: str, unit: str, caption: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "caption": caption}


def classes(sources: Sources) -> dict[str, Any]:
    """Return the share of labelled pixels and the segments of the classes with most pixels, the largest first."""
    ids = {c["name"]: i for i, c in sources.classes.items()}
    found: dict[str, dict[str, dict[str, int]]] = {}
    for split in ("train", "val"):
        for row in sources.statistics[split]["by_class"]:
            if row["segments"]:
                found.setdefault(row["class"], {})[split] = row
    totals = {s: sum(rows[s]["pixels"] for rows in found.values() if s in rows) or 1 for s in ("train", "val")}
    shares = {
        name: {s: 100 * rows[s]["pixels"] / totals[s] if s in rows else 0.0 for s in totals}
        for name, rows in found.items()
    }
    order = sorted(found, key=lambda name: (-shares[name]["train"], -shares[name]["val"], name))[:MAX_CLASSES]
    largest = max((max(shares[name].values()) for name in order), default=0) or 1
    return {
        "present": len(found),
        "rows": [
            {
                **sources.classes[ids[name]],
                "short": short(name),
                "share": shares[name],
                "width": {s: 100 * share / largest for s, share in shares[name].items()},
                "segments": {s: found[name][s]["segments"] if s in found[name] else 0 for s in totals},
            }
            for name in order
        ],
    }


PARTS = {"": "", "partly": "classes labelled in part", "protocol": "own evaluation"}
"""Parts of a source's figures in evaluate.json, with their names."""


def by_source(evaluated: Any) -> list[dict[str, str]]:
    """Return a row for each source and part of it: name, part, pictures, why there are no figures, and figures."""
    rows = []
    for name, found in (evaluated or {}).get("by_source", {}).items():
        for key, part in PARTS.items():
            of = found.get(key) if key else found
            if of is None:
                continue
            figures = {
                f"{group}_{figure}": number(of[group].get(figure)) if group in of else number(None)
                for group, figure in (
                    *(("all", figure) for figure in ("pq", "sq", "rq")),
                    ("things", "pq"),
                    ("stuff", "pq"),
                    ("semantic", "miou"),
                    ("instance", "ap"),
                )
            }
            about = f"{part}: {of['name']}" if key == "protocol" else part
            pictures = number(found["pictures"], 0)
            row = {"source": name, "part": about, "pictures": pictures, "why": of.get("not_computed", "")}
            rows.append({**row, **figures})
    return rows


def confusion_classes(sources: Sources) -> list[tuple[str, str]]:
    """Return name and short name of the validation set's classes in the matrix, those with most pixels, by id."""
    rows = [row for row in sources.statistics["val"]["by_class"] if row["segments"]]
    names = {row["class"] for row in sorted(rows, key=lambda row: -row["pixels"])[:MAX_CLASSES]}
    return [(c["name"], short(c["name"])) for c in sources.classes.values() if c["name"] in names]


def confusions(sources: Sources) -> list[dict[str, object]]:
    """Return the largest shares of pixels that were predicted as another class."""
    return [
        {"actual": short(actual), "predicted": short(predicted), "share": share}
        for actual, predicted, share in confusion.largest(sources.confusion, MAX_CONFUSIONS)
    ]


def per_class(sources: Sources) -> list[dict[str, object]]:
    """Return the rows of per_class.csv by falling PQ, AP and IoU, with each class's colour."""
    by_name = {c["name"]: c for c in sources.classes.values()}
    order = sorted(
        sources.per_class, key=lambda r: (*(-float(r.get(key, 0.0)) for key in ("pq", "ap", "iou")), r["class"])
    )
    return [{**row, "short": short(str(row["class"])), "color": by_name[str(row["class"])]["color"]} for row in order]


def graphs(sources: Sources) -> list[dict[str, object]]:
    """Return the rows of the graph table, variant by variant. A row is `absent` where its stage has not run."""
    rows = []
    for variant in (each.value for each in sources.cfg.deploy.variants):
        rows.append(_graph(sources, variant, "exported", f"export_{variant}", f"export@{variant}"))
        fp32, *lower = precisions(sources.cfg.deploy)
        rows.append(_graph(sources, variant, fp32, f"simplify_{variant}", f"simplify@{variant}"))
        rows += [_graph(sources, variant, p, f"precision_{variant}_{p}", f"precision@{variant}-{p}") for p in lower]
    return rows


def _graph(sources: Sources, variant: str, name: str, stem: str, stage: str) -> dict[str, object]:
    found = sources.metric(stem)
    row: dict[str, object] = {"label": f"{variant}, {name}", "folder": f"data/onnx/{variant}/{name}", "stage": stage}
    row["absent"] = found is None
    if not found:
        return row
    row |= {"nodes": found["nodes"], "mb": found["bytes"] / 1e6}
    # `compared` is a reason, such as "not on this host: ONNX Runtime has no plugin of TensorRT".
    row["not_compared"] = found.get("compared", "").partition(": ")[2]
    row["logits"] = scientific(found.get("logit_difference_p99"))
    row["agreement"] = "" if row["not_compared"] else number(found["pixel_agreement_pct"], 3)
    for kind in ("class", "mask"):
        for statistic in ("p999", "max"):
            row[f"{kind}_{statistic}"] = scientific(found.get(f"{kind}_probability_difference_{statistic}"))
    return row


def transfers(sources: Sources) -> list[dict[str, object]]:
    """Return a row per deployable graph: its tensors, megabytes in and out per frame, and Polygraphy's text."""
    frames = sources.cfg.deploy.batch_size
    return [
        {
            "folder": folder,
            "text": graph.text,
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "in_mb": sum(tensor.bytes for tensor in graph.inputs) / frames / 1e6,
            "out_mb": sum(tensor.bytes for tensor in graph.outputs) / frames / 1e6,
        }
        for folder, graph in sources.graphs.items()
    ]


def target_rows(states: Mapping[str, TargetState], cfg: config.Config) -> list[dict[str, Any]]:
    """Return a row per target: its state in words, and its times end to end as bars of one scale."""
    times = {name: _times(state) for name, state in states.items()}
    longest = max((p99 for found in times.values() for _, _, p99 in found), default=1.0)
    return [
        {
            "state": state,
            "target": cfg.targets[name],
            "style": state.state.name.replace("_", "-"),
            "status": status(state),
            "checked": checked(state),
            "bars": [
                {"who": who, "p50": p50, "p99": p99, "width": 100 * p50 / longest, "tick": 100 * p99 / longest}
                for who, p50, p99 in times[name]
            ],
        }
        for name, state in states.items()
    ]


def _times(state: TargetState) -> list[tuple[str, float, float]]:
    """Return who was timed, engine or eager, and the median and the 99th percentile in ms, end to end."""
    timed = state.timed or {}
    found = [(who, timed[who]["end_to_end"]) for who in ("engine", "eager") if who in timed]
    return [(who, times["p50_ms"], times["p99_ms"]) for who, times in found]


def distributions(states: Mapping[str, TargetState], scope: str) -> list[tuple[str, list[float]]]:
    """Return label and quantiles in ms of each line of the plot of latencies; `scope` is a value of SCOPES."""
    return [
        (f"{name}, {'engine' if who == 'engine' else 'PyTorch'}", state.timed[who][scope]["quantiles_ms"])
        for name, state in states.items()
        if state.timed
        for who in ("engine", "eager")
        if "quantiles_ms" in state.timed.get(who, {}).get(scope, {})
    ]


def status(state: TargetState) -> str:
    """Return the state of a target in words, such as built at board on 2026-11-28."""
    if state.state is State.never_built:
        return "never built"
    where = f" at {state.machine}" if state.machine else ""
    when = f" on {state.date}" if state.date else ""
    origin = f"built, timed{where}{when}" if state.timed_only else f"built{where}{when}"
    if state.measured_on:
        origin += f", measured on {state.measured_on}"
    return f"stale: {state.reason}; {origin}" if state.state is State.stale else origin


def checked(state: TargetState) -> str:
    """Return what verify found of a target's engine, in words."""
    if state.verified is None:
        return "not compared with the checkpoint"
    agreement = number(state.verified["pixel_agreement_pct"], 3)
    return f"{agreement} % of pixels agree, PQ difference {signed(state.verified['pq_difference'], 3)}"


def versions() -> list[tuple[str, str]]:
    """Return name and version of the packages that matter, which uv.lock fixes."""
    return [(label, metadata.version(package)) for label, package in PACKAGES.items()]


def code(states: Mapping[str, TargetState]) -> list[dict[str, str]]:
    """Return the commits whose code built or timed the engines, with their dates and targets; the latest is first."""
    found: dict[tuple[str, bool], list[TargetState]] = {}
    for state in states.values():
        if state.date:
            found.setdefault((state.commit, state.dirty), []).append(state)
    rows = [
        {
            "commit": commit,
            "changes": "with uncommitted changes" if dirty and commit else "",
            "date": max(state.date for state in of),
            "targets": ", ".join(state.target for state in of),
        }
        for (commit, dirty), of in found.items()
    ]
    return sorted(rows, key=lambda row: row["date"], reverse=True)


def machines(states: Mapping[str, TargetState]) -> list[dict[str, str]]:
    """Return a row per machine that built or timed an engine, with its targets."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, state in states.items():
        timed = state.timed or {}
        for host in ((timed.get("built") or {}).get("host"), timed.get("host")):
            if not host:
                continue
            gpu = host.get("gpu")
            graphics = f"{gpu['name']}, driver {gpu['driver']}" if gpu else "not used"
            key = (host.get("name", ""), host["cpu"], graphics, host.get("system", ""), host.get("python", ""))
            if name not in found.setdefault(key, []):
                found[key].append(name)
    columns = ("name", "cpu", "gpu", "system", "python")
    return [{**dict(zip(columns, key, strict=True)), "targets": ", ".join(names)} for key, names in found.items()]
