"""graph.json, beside each deployable ONNX file: what the graph is, so that whoever runs its engine needs no params.

Read on machines without onnx.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files
from stages.foundation.coco_types import Category

ONNX, NAME = "graph.onnx", "graph.json"
CONSTANTS = "constants.npz"
"""Arrays that kernels of ours read, by the names of their tensors."""

PROVENANCE = "provenance"
"""Key of the ONNX metadata that holds, as JSON, what Description.provenance does."""


@dataclass
class Description:
    """A graph: what it takes, what it returns, and where it came from."""

    deploy: dict[str, Any]
    """The parameters `deploy` that shape it, as in params.yaml."""
    deformable_attention: str
    """A value of config.Sampler."""
    categories: list[Category]
    """COCO categories, things first; category_id - 1 is the network's class."""
    provenance: dict[str, str] = field(default_factory=dict)
    """SHA-256 of data, spec and checkpoint that it came from."""
    precision: str = "fp32"
    """A value of config.Precision."""
    sha256: str = ""
    """Of the ONNX file."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Of a graph with kernels of ours: `constants` and `sha256` of a file beside it, where kernels read any; its parts,
    `onnx` and `sha256` of a file beside it, and between them kernels, `kernel`, `attributes`, the names of `inputs` and
    `outputs`, and as `tensors` shape and dtype of each input. Of other graphs: empty."""

    @property
    def num_things(self) -> int:
        """Number of thing classes."""
        return sum(bool(c["isthing"]) for c in self.categories)

    @property
    def config(self) -> config.Deploy:
        """The parameters `deploy`, checked."""
        return config.deploy(self.deploy)


def read(folder: Path) -> Description:
    """Read folder/graph.json. Raises RuntimeError where it is missing or the ONNX file is another than it describes."""
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found; run `dvc repro` or `dvc pull` for {folder}")
    found = Description(**files.read_json(path))
    described = {ONNX: found.sha256}
    described |= {step[kind]: step["sha256"] for step in found.steps for kind in ("onnx", "constants") if kind in step}
    for name, sha256 in described.items():
        onnx_file = folder / name
        if not onnx_file.exists():
            raise RuntimeError(f"{onnx_file} not found; run `dvc repro` or `dvc pull` for {folder}")
        if files.sha256(onnx_file) != sha256:
            raise RuntimeError(f"{onnx_file} is not the file that {path} describes; run `dvc checkout {folder}`")
    return found
