"""graph.json, beside each deployable ONNX file: everything that a machine without the parameters must know to run it.

Read on machines without onnx.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files
from stages.foundation.coco_types import Category
from stages.inference import steps
from stages.inference.steps import Constants, Part, Step

ONNX, NAME = "graph.onnx", "graph.json"
CONSTANTS = "constants.npz"
"""File of the arrays that our kernels read, by the names of their tensors."""

PROVENANCE = "provenance"
"""Key of the ONNX metadata that holds Description.provenance as JSON."""

FUSED_INPUT, TAO_INPUT = "frame", "inputs"
"""Names of the graph's input: of the fused graph, and of the graph of TAO's exporter."""


@dataclass
class Description:
    """A graph: its inputs and outputs, and where it came from."""

    deploy: dict[str, Any]
    """The parameters `deploy` that shape it, as in params.yaml."""
    variant: str
    """A value of config.Variant: the operators that the graph is made of."""
    categories: list[Category]
    """COCO categories, things first; category_id - 1 is the network's class."""
    provenance: dict[str, str] = field(default_factory=dict)
    """SHA-256 of data, spec and checkpoint that it came from."""
    precision: str = "fp32"
    """A value of config.Precision."""
    sha256: str = ""
    """SHA-256 of the ONNX file."""
    steps: list[Step] = field(default_factory=list)
    """Parts and kernel calls of a graph with kernels of ours, in the order in which they run; else empty."""

    @property
    def num_things(self) -> int:
        """Number of thing classes."""
        return sum(bool(c["isthing"]) for c in self.categories)

    @property
    def config(self) -> config.Deploy:
        """The parameters `deploy`, checked."""
        return config.parse_deploy(self.deploy)


def parse(content: Mapping[str, Any]) -> Description:
    """The content of a graph.json. Raises ValueError for unknown keys, missing ones, and steps of another form."""
    names = [f.name for f in fields(Description)]
    if unknown := sorted(content.keys() - {*names}):
        raise ValueError(f"unknown keys {unknown}; expected {', '.join(names)}")
    try:
        return Description(**{**content, "steps": steps.parse(content.get("steps", []))})
    except TypeError as error:
        raise ValueError(f"{error}; expected keys {', '.join(names)}") from error


def read(folder: Path) -> Description:
    """Read folder/graph.json.

    Raises RuntimeError where it is missing, has another form, or describes another file than the one beside it.
    """
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found; run `dvc repro` or `dvc pull` for {folder}")
    content = files.read_json(path)
    try:
        if not isinstance(content, dict):
            raise ValueError(f"an object is expected, found {type(content).__name__}")
        found = parse(content)
    except ValueError as error:
        raise RuntimeError(f"{path}: {error}; run `dvc repro` to write it anew") from error
    described = {ONNX: found.sha256}
    described |= {step.file: step.sha256 for step in found.steps if isinstance(step, Constants | Part)}
    for name, sha256 in described.items():
        file = folder / name
        if not file.exists():
            raise RuntimeError(f"{file} not found; run `dvc repro` or `dvc pull` for {folder}")
        if files.sha256(file) != sha256:
            raise RuntimeError(f"{file} is not the file that {path} describes; run `dvc checkout {folder}`")
    return found
