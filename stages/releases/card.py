"""The model card of a release: Markdown with the metadata of Hugging Face's model cards, from the manifest alone.

Format: huggingface.co/docs/hub/model-cards.
"""

import re
from pathlib import Path
from typing import Any

from stages.releases import manifest as manifests
from stages.releases.manifest import CHECKPOINT, Json

TEMPLATES = Path(__file__).with_name("templates")
LICENCE_IDS = (
    "afl-3.0", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1",
    "lgpl-3.0", "mit", "mpl-2.0", "unlicense",
)  # fmt: skip
"""Licences that Hugging Face lists under their SPDX identifier, in lower case. Every other one is `other` there."""
FIGURES = (
    ("all", "pq", "PQ"),
    ("all", "sq", "SQ"),
    ("all", "rq", "RQ"),
    ("semantic", "miou", "mIoU"),
    ("instance", "ap", "AP"),
)
"""Section and key in evaluate.json, and the figure's name."""


def render(manifest: Json, pictures: list[str], columns: list[str]) -> str:
    """Return the card. `pictures` are paths beside the card, `columns` the names of the parts of each."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = _cell
    evaluated = manifest["metrics"].get("evaluate", {})
    scores = [(name, evaluated[part][key]) for part, key, name in FIGURES if key in evaluated.get(part, {})]
    engines = [_engine(manifest, name) for name in manifest["engines"]]
    return environment.get_template("README.md").render(
        m=manifest,
        metadata=_metadata(manifest, scores),
        scores=scores,
        engines=engines,
        pictures=pictures,
        columns=columns,
        licences=[(path, _licence(found)) for path, found in manifest["licences"].items()],
    )


def _metadata(manifest: Json, scores: list[tuple[str, float]]) -> str:
    import yaml

    params = manifest["parameters"]
    name, mode = f"{manifest['project']}-{manifest['profile']}", params["deploy"]["mode"]
    builders = sorted({engine["builder"].partition("_")[0] for engine in manifest["engines"].values()})
    content: Json = {
        "library_name": "onnx",
        "pipeline_tag": "image-segmentation",
        "tags": ["mask2former", f"{mode}-segmentation", "onnx", *builders],
    }
    stated = manifest["licences"][CHECKPOINT]["stated"]
    if stated and stated.lower() in LICENCE_IDS:
        content["license"] = stated.lower()
    elif stated:
        content |= {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-")}
    if scores:
        root = next(iter(manifest["raw_data"]))
        dataset = {"name": f"{root}, validation", "type": Path(root).name}
        content["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-segmentation"},
                        "dataset": dataset,
                        "metrics": [{"type": key.lower(), "name": key, "value": round(v, 3)} for key, v in scores],
                    }
                ],
            }
        ]
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).strip()


def _engine(manifest: Json, name: str) -> dict[str, Any]:
    """Return the row of an engine. A figure that was not measured with this very engine is None."""
    engine = manifest["engines"][name]
    verified, timed = manifests.figures(manifest, "verify", name), manifests.figures(manifest, "benchmark", name)
    host = timed["host"] if timed else {}
    machine = host["gpu"]["name"] if host.get("gpu") else host.get("cpu", "")
    return {
        "name": name,
        "built_by": f"{engine['builder']} {engine['builder_version']}",
        "graph": f"{engine['variant']}, {engine['precision']}",
        "agreement_pct": verified and verified["pixel_agreement_pct"],
        "pq": verified and verified.get("pq"),
        "times": timed and timed["engine"]["end_to_end"],
        "machine": machine,
    }


def _licence(found: Json) -> str:
    parts = [found["stated"] or "", f"the file {found['file']}" if found["file"] else ""]
    return ", ".join(filter(None, parts)) or "not stated"


def _cell(value: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join(str(value).replace("\\", "\\\\").replace("|", "\\|").split()) or "–"  # noqa: RUF001
