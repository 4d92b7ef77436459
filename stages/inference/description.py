"""Reads graph.json, which lies beside each deployable ONNX file and has all that a device needs to run the graph.

Devices have neither the parameters nor the package onnx.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from stages import config
from stages.foundation import files, json_shapes
from stages.foundation.coco_types import Category, check_categories
from stages.inference import steps
from stages.inference.steps import Constants, Step

ONNX, NAME = "graph.onnx", "graph.json"
CONSTANTS = "constants.npz"
"""File of the constants that our kernels read, by the names of their tensors."""

PROVENANCE = "provenance"
"""Key of the ONNX metadata that holds Description.provenance as JSON."""

FUSED_INPUT, TAO_INPUT = "frame", "inputs"
"""Names of the input: of the fused graph, and of the graph of TAO's exporter."""


@dataclass
class Description:
    """Content of graph.json."""

    deploy: dict[str, object]
    """The parameters `deploy` that the graph was exported with, as in params.yaml."""
    variant: str
    """A value of config.Variant: the operators that the graph is made of."""
    categories: list[Category]
    """COCO categories, things first; category_id - 1 is the network's class."""
    provenance: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the data, spec and checkpoint that the graph was made from."""
    precision: str = "fp32"
    """A value of config.Precision."""
    sha256: str = ""
    """SHA-256 of the ONNX file."""
    steps: list[Step] = field(default_factory=list)
    """Constants and kernel calls of a graph of our kernels, in the order in which they run; empty for other graphs."""

    @property
    def num_things(self) -> int:
        """Number of thing classes."""
        return sum(bool(c["isthing"]) for c in self.categories)

    @property
    def config(self) -> config.Deploy:
        """The parameters `deploy`, checked."""
        return config.parse_deploy(self.deploy)


_SHAPES = {
    "deploy": dict[str, object],
    "variant": str,
    "categories": list[Category],
    "provenance": dict[str, str],
    "precision": str,
    "sha256": str,
}
"""Types of the keys but for steps."""


def parse(content: Mapping[str, files.Json]) -> Description:
    """Parse the content of a graph.json. Raises ValueError for unknown or missing keys and for malformed steps."""
    names = [f.name for f in fields(Description)]
    if unknown := sorted(content.keys() - {*names}):
        raise ValueError(f"unknown keys {unknown}; expected {', '.join(names)}")
    shaped = {name: json_shapes.parse(_SHAPES[name], value, name) for name, value in content.items() if name in _SHAPES}
    try:
        check_categories(shaped.get("categories", []))
        return Description(**{**shaped, "steps": steps.parse(content.get("steps", []))})
    except TypeError as error:
        raise ValueError(f"{error}; expected keys {', '.join(names)}") from error


def read(folder: Path) -> Description:
    """Read folder/graph.json.

    Raises RuntimeError if it is missing or malformed, or if a file that it describes is missing or has another SHA-256.
    """
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found; run `dvc repro` or `dvc pull` for {folder}")
    content = files.read_json(path)
    try:
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}, expected an object")
        found = parse(content)
    except ValueError as error:
        raise RuntimeError(f"{path}: {error}; run `dvc repro` to write it again") from error
    described = {ONNX: found.sha256}
    described |= {step.file: step.sha256 for step in found.steps if isinstance(step, Constants)}
    for name, sha256 in described.items():
        file = folder / name
        if not file.exists():
            raise RuntimeError(f"{file} not found; run `dvc repro` or `dvc pull` for {folder}")
        if files.sha256(file) != sha256:
            raise RuntimeError(f"{file} is not the file that {path} describes; run `dvc checkout {folder}`")
    return found
