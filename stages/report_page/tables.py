"""Makes the numbers of the page, as rows for the templates."""

from collections.abc import Mapping
from typing import Any

from stages import config
from stages.report_page.sources import Sources, precisions

NOT_RUN = "built, not run on this host"
MAX_BARS = 30
"""Bars in a plot by class. Vistas has more classes than a plot can show legibly."""


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
    verified, timed = sources.measured("verify", name), sources.measured("benchmark", name)
    engine, deploy = f"engine {name}", sources.cfg.deploy
    compared = timed and "eager" in timed
    absent = f"verify or benchmark of {engine} has not run" if name else "no target is runnable here"
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
            number(timed["speedup_end_to_end"], 2) if compared else "",
            "×",  # noqa: RUF001
            f"{engine} over PyTorch eager, end to end" if compared else absent,
        ),
    ]


def _tile(label: str, value: str, unit: str, caption: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "caption": caption}


def by_class(sources: Sources, split: str, quantity: str) -> dict[int, int]:
    """Return the `quantity`, pixels or segments, of each class in a split, by category_id. Crowds are counted."""
    ids = {c["name"]: i for i, c in sources.classes.items()}
    return {ids[row["class"]]: row[quantity] for row in sources.statistics[split]["by_class"] if row["segments"]}


def bars(sources: Sources, values: Mapping[int, float]) -> list[tuple[str, bool, float]]:
    """Return (short name, whether it is a thing, value) of the MAX_BARS largest values, the largest first."""
    largest = sorted(values.items(), key=lambda item: (-item[1], item[0]))[:MAX_BARS]
    return [(short(sources.classes[i]["name"]), bool(sources.classes[i]["isthing"]), value) for i, value in largest]


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


def engines(sources: Sources) -> list[dict[str, object]]:
    """Return a row per target. `built` is None where engine.json is absent."""
    rows: list[dict[str, object]] = []
    for name, target in sources.cfg.targets.items():
        built, verified = sources.engines.get(name), sources.measured("verify", name)
        if built is None:
            state, status = "missing", "never built"
        elif name not in sources.cfg.runnable:
            state, status = "not-run", NOT_RUN
        elif verified is None:
            state, status = "missing", "built, verify has not run"
        else:
            agreement = number(verified["pixel_agreement_pct"], 3)
            difference = signed(verified["pq_difference"], 3)
            state, status = "verified", f"verified: {agreement} % pixels agree, PQ difference {difference}"
        about = {"name": name, "description": target.description}
        rows.append({**about, "state": state, "status": status, "built": built})
    return rows


def origins(sources: Sources) -> list[dict[str, str]]:
    """Return a row per file and hash that engines were made from, with the engines that name it."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, built in sources.engines.items():
        for key, digest in built["provenance"].items():
            label = key.removesuffix("_sha256").replace("_", " ")
            found.setdefault((label, digest), []).append(name)
    return [{"file": label, "sha256": digest, "targets": ", ".join(v)} for (label, digest), v in found.items()]


def hosts(sources: Sources) -> list[dict[str, str]]:
    """Return a row per host that timed engines, with its targets and the day."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in sources.engines:
        if timed := sources.measured("benchmark", name):
            host = timed["host"]
            gpu = f"{host['gpu']['name']}, driver {host['gpu']['driver']}" if host["gpu"] else "not used"
            row = (host["name"], timed["date"][:10], host["cpu"], gpu, host["system"], host["python"])
            found.setdefault(row, []).append(name)
    keys = ("name", "date", "cpu", "gpu", "system", "python")
    return [{"targets": ", ".join(names), **dict(zip(keys, row, strict=True))} for row, names in found.items()]
