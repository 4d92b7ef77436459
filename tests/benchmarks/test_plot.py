"""The plot that `make bench` draws from measurements."""

from pathlib import Path
from typing import Any

from benchmarks import plot

ENGINE: dict[str, Any] = {
    "gpu": {"name": "A GPU"},
    "engine": {"builder_version": "8.6.0", "precision": "fp16"},
    "decoded_p50_ms": 4.0,
    "decoded_p90_ms": 4.2,
    "tao_deploy": {"end_to_end_p50_ms": 500.0, "end_to_end_p90_ms": 600.0},
}
PEERS = {
    "peers": {
        "eager float32": {"p50_ms": 60.0, "p90_ms": 70.0},
        "eager float32, network alone": {"p50_ms": 50.0, "p90_ms": 60.0},
    }
}


def test_plot_has_all_that_make_a_map_from_the_fastest(tmp_path: Path) -> None:
    found = plot.bars(ENGINE, PEERS)
    assert found == [
        ("ours, TensorRT 8.6.0, fp16", 4.0, 4.2),
        ("PyTorch eager float32", 60.0, 70.0),
        ("TAO's graph, TAO Deploy's merge", 500.0, 600.0),
    ]
    plot.draw(ENGINE, PEERS, tmp_path / "bench.svg")
    drawn = (tmp_path / "bench.svg").read_text()
    assert all(label in drawn for label, _, _ in found)
    assert "4.0 ms, 250.0 Hz" in drawn


def test_an_engine_alone_is_drawn_too(tmp_path: Path) -> None:
    alone = {name: value for name, value in ENGINE.items() if name != "tao_deploy"}
    assert plot.bars(alone, {"peers": {}}) == [("ours, TensorRT 8.6.0, fp16", 4.0, 4.2)]
    plot.draw(alone, {"peers": {}}, tmp_path / "bench.svg")
    assert "TAO Deploy" not in (tmp_path / "bench.svg").read_text()
