"""The whole pipeline on generated Vistas and ADE20K, merged to 222 classes as conf/data/merged222.yaml says.

The same as, in a clone:

python -m tests.support.streets --out data/raw/merged222
make all PROFILE=smoke OVERRIDES='data=merged222 ~targets.rtx ~targets.gpu deploy.variants=[onnx]'
"""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import committed_copy, must
from tests.support import sets, streets

OVERRIDES = ("data=merged222", "~targets.rtx", "~targets.gpu", "deploy.variants=[onnx]")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = committed_copy(tmp_path_factory.mktemp("merged") / "clone")
    scenes = streets.streets(4, 2, 128, 192)
    sets.vistas(folder / "data/raw/merged222/vistas", scenes)
    sets.ade20k(folder / "data/raw/merged222/ade20k", scenes)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["panoptic", "instance"])
def test_two_sets_of_different_formats_become_an_engine(clone: Path, mode: str) -> None:
    chosen = " ".join([*OVERRIDES, f"model.mode={mode}"])
    must("python", "-m", "stages.commands.params", "--profile", "smoke", "--overrides", chosen, cwd=clone)
    must("python", "-m", "stages.commands.reproduce", cwd=clone)
    data = clone / "data"
    label_map = json.loads((data / "coco/label_map.json").read_text())
    assert (len(label_map), sum(entry["isthing"] for entry in label_map)) == (222, 147)
    statistics = json.loads((data / "coco/statistics.json").read_text())
    assert statistics["train"]["images_by_source"] == {"ade20k": 4, "vistas": 4}
    manifest = json.loads((data / "engines/cpu/engine.json").read_text())
    assert (data / "engines/cpu" / manifest["engine"]["file"]).stat().st_size > 1e6
    verified = json.loads((data / "metrics/verify_cpu.json").read_text())
    assert verified["pixel_agreement_pct"] >= 99.5
    with (data / "evaluate/per_class.csv").open(encoding="utf-8", newline="") as lines:
        names = {row["class"] for row in csv.DictReader(lines)}
    assert "object--vehicle--car" in names <= {entry["name"] for entry in label_map}
