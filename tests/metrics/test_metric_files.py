"""Files of data/metrics with another shape are refused in one line, which names the file and the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.commands import summary
from stages.metrics import metric_files
from tests.conftest import REPO


def test_the_files_of_the_pipeline_are_read_as_they_are() -> None:
    folder = REPO / "data/metrics"
    found = metric_files.read_all(folder)
    assert {"evaluate", "engine_cpu", "verify_cpu", "benchmark_cpu", "train"} <= found.keys()
    assert all(content == json.loads((folder / f"{name}.json").read_text()) for name, content in found.items())


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("evaluate", (), []),
        ("evaluate", ("all",), None),
        ("evaluate", ("all", "pq"), "33"),
        ("evaluate", ("by_source",), {"vistas": 1}),
        ("engine_cpu", ("compute_capabilities",), "8.6"),
        ("engine_cpu", ("bytes",), 1e400),
        ("engine_cpu", ("bytes",), 10**30),
        ("verify_cpu", ("pixel_agreement_pct",), [99.9]),
        ("benchmark_cpu", ("host",), "vm"),
        ("benchmark_cpu", ("engine", "network"), [1]),
        ("train", (), "text"),
    ],
)
def test_another_shape_is_refused_in_one_line(tmp_path: Path, name: str, place: tuple[str, ...], value: Any) -> None:
    content = json.loads((REPO / f"data/metrics/{name}.json").read_text())
    if place:
        parent = content
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
    else:
        content = value
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"^{path}: {'.'.join(place) or 'the file'}[^:]*: found .*, expected .*"
    ) as error:
        metric_files.read(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_command_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/evaluate.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"evaluate.json: the file: found \[1\], expected an object"):
        summary.text(tmp_path, config.load(REPO / "params.yaml"))
