"""The real pipeline on the smoke profile, in a clone of the working tree: every stage for real, on tiny data."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

from stages.commands import params
from tests.conftest import copy_working_tree, run

TARGET_STAGES = {"cpu": {"engine@cpu", "verify@cpu", "benchmark@cpu"}, "rtx": {"engine@rtx"}}
VARIANTS = ("onnx", "cuda")
GRAPH_STAGES = {s for v in VARIANTS for s in (f"export@{v}", f"simplify@{v}", f"precision@{v}-fp16")}
FROM_TRAIN_ON = {"train", "evaluate", "report", *GRAPH_STAGES, *TARGET_STAGES["cpu"], "engine@rtx"}
ALL = {"sample", "convert", *FROM_TRAIN_ON}


def must(*command: str, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def compose(clone: Path, *overrides: str) -> None:
    params.build(clone / "conf", clone / "params.yaml", ["profile=smoke", *overrides])


def stages_run(clone: Path, *options: str) -> set[str]:
    """Names of the stages that `dvc repro` runs. With --dry: that it would run if no output changed on the way."""
    return set(re.findall(r"Running stage '([^']+)'", must("dvc", "repro", *options, "report", cwd=clone)))


def without_provenance(graph: Path) -> str:
    model = onnx.load(graph)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString()).hexdigest()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree, changes included, in which the smoke profile has been reproduced."""
    folder = copy_working_tree(tmp_path_factory.mktemp("pipeline") / "clone")
    shutil.rmtree(folder / "data/metrics", ignore_errors=True)
    must("git", "init", "-q", cwd=folder)
    must("git", "add", "-A", cwd=folder)
    must("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start", cwd=folder)
    must("python", "-m", "stages.commands.params", "--profile", "smoke", cwd=folder)
    assert stages_run(folder) == ALL
    return folder


def test_nothing_runs_again(clone: Path) -> None:
    assert stages_run(clone, "--dry") == set()


def test_touching_a_file_runs_nothing(clone: Path) -> None:
    (clone / "stages/train.py").touch()
    (clone / "conf/train/sample.yaml").touch()
    (clone / "data/checkpoint/model.pth").touch()
    # Bytecode files are no dependencies either.
    for folder in (clone / "stages").rglob("__pycache__"):
        shutil.rmtree(folder)
    compose(clone)
    assert stages_run(clone, "--dry") == set()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("targets.cpu.threads=1", {*TARGET_STAGES["cpu"], "report"}),
        # The merge is in the graph; --dry does not know that the ONNX files change in consequence.
        ("deploy.overlap_threshold=0.1", {"evaluate", *(f"export@{v}" for v in VARIANTS), "benchmark@cpu", "report"}),
        ("deploy.keep_float32=[Softmax]", {*(f"precision@{v}-fp16" for v in VARIANTS), "report"}),
        ("model.name=other", {"report"}),
        ("verify.max_pq_difference=0.3", {"verify@cpu", "report"}),
        ("benchmark.frames=11", {"benchmark@cpu", "report"}),
        ("report.pictures=2", {"report"}),
    ],
)
def test_a_parameter_runs_exactly_its_stages(clone: Path, override: str, expected: set[str]) -> None:
    compose(clone, override)
    try:
        assert stages_run(clone, "--dry") == expected
    finally:
        compose(clone)


def test_a_target_parameter_rebuilds_that_target_for_real(clone: Path) -> None:
    compose(clone, "targets.rtx.workspace_mib=2048")
    assert stages_run(clone) == {"engine@rtx", "report"}
    compose(clone)
    # The former engine comes back from DVC's cache.
    assert stages_run(clone) == set()


def test_artifacts(clone: Path) -> None:
    metrics = {p.stem: json.loads(p.read_text()) for p in (clone / "data/metrics").glob("*.json")}
    exported, simplified = metrics["export_onnx"], metrics["simplify_onnx"]
    assert simplified["nodes"] < exported["nodes"] / 2
    for found in (exported, simplified):
        assert found["logit_difference_max"] < 1e-3
        assert found["pixel_agreement_pct"] >= 99.99
    assert metrics["benchmark_cpu"]["engine"]["end_to_end"]["hz"] > 0
    assert metrics["train"]["epochs"] == 2
    for target in TARGET_STAGES:
        sidecar = json.loads((clone / f"data/engines/{target}/engine.json").read_text())
        assert (clone / f"data/engines/{target}" / sidecar["engine"]["file"]).stat().st_size > 1e6
        checkpoint = hashlib.sha256((clone / "data/checkpoint/model.pth").read_bytes()).hexdigest()
        assert sidecar["graph"]["provenance"]["checkpoint_sha256"] == checkpoint
    page = (clone / "data/report/index.html").read_text()
    assert "built, not run on this host" in page


def test_summary_names_the_results(clone: Path) -> None:
    shown = must("python", "-m", "stages.commands.summary", cwd=clone)
    assert re.search(r"^checkpoint +PQ [\d.]+, mIoU [\d.]+, AP [\d.]+$", shown, re.MULTILINE)
    assert re.search(r"^engine cpu .* Hz end to end", shown, re.MULTILINE)
    assert re.search(r"^engine rtx .* built, not run on this host$", shown, re.MULTILINE)
    assert "data/report/index.html" in shown


def test_polygraphy_runs_a_graph_on_real_frames(clone: Path) -> None:
    """The command of docs/targets.md, with ONNX Runtime in TensorRT's place."""
    graph = "data/onnx/onnx/fp16/graph.onnx"
    command = ("polygraphy", "run", graph, "--onnxrt", "--onnxrt", "--data-loader-script", "scripts/frames.py")
    shown = must(*command, "--atol", "0.05", "--onnx-outputs", "mark", "all", cwd=clone)
    assert "Pass Rate: 100.00%" in shown
    assert "query_ids" in shown


@pytest.mark.parametrize("mode", ["semantic", "instance"])
def test_other_modes_answer_as_tao_with_trained_weights(clone: Path, mode: str, tmp_path: Path) -> None:
    """export fails below deploy.min_pixel_agreement_pct."""
    compose(clone, f"deploy.mode={mode}", "deploy.object_mask_threshold=0.05")
    try:
        must(
            "python", "-m", "stages.export", "--variant", "onnx", "--checkpoint", "data/checkpoint", "--coco",
            "data/coco/val", "--out", str(tmp_path / "exported"),
            "--metrics", str(tmp_path / "metrics.json"), cwd=clone,
        )  # fmt: skip
    finally:
        compose(clone)
    assert json.loads((tmp_path / "metrics.json").read_text())["pixel_agreement_pct"] >= 99.99


def test_training_is_deterministic(clone: Path) -> None:
    must(
        "python", "-m", "stages.train", "--coco", "data/coco", "--out", "data/again", "--work", "data/again_work",
        "--metrics", "again.json", cwd=clone,
    )  # fmt: skip
    first, again = clone / "data/checkpoint/history.csv", clone / "data/again/history.csv"
    assert first.read_text() == again.read_text()


def test_dvc_tells_differences(clone: Path) -> None:
    compose(clone, "train.lr=0.0005")
    try:
        assert "train.lr" in must("dvc", "params", "diff", cwd=clone)
    finally:
        compose(clone)
    assert "all.pq" in must("dvc", "metrics", "show", cwd=clone)
    must("dvc", "plots", "show", "-o", "plots", cwd=clone)
    assert "train_loss" in (clone / "plots/index.html").read_text()


def test_push_and_pull(clone: Path) -> None:
    must("dvc", "push", cwd=clone)
    shutil.rmtree(clone / "data/engines")
    shutil.rmtree(clone / ".dvc/cache")
    must("dvc", "pull", cwd=clone)
    assert (clone / "data/engines/cpu/cpu.blob").exists()
    assert stages_run(clone, "--dry") == set()


@pytest.mark.slow
def test_a_network_of_hugging_face_becomes_an_engine_without_training(clone: Path, tmp_path: Path) -> None:
    """The clone's network, written by transformers and imported again: same graph, except for its provenance."""
    import transformers

    graph, trained = clone / "data/onnx/onnx/fp32/graph.onnx", clone / "data/checkpoint/model.pth"
    before, metrics = without_provenance(graph), json.loads((clone / "data/metrics/evaluate.json").read_text())
    must(
        "python", "-m", "stages.commands.hugging_face", "--checkpoint", "data/checkpoint", "--label-map",
        "data/coco/label_map.json", "--out", str(tmp_path / "ours"), cwd=clone,
    )  # fmt: skip
    network = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "ours")
    network.save_pretrained(clone / "data/raw/theirs")
    former = hashlib.sha256(trained.read_bytes()).hexdigest()
    compose(clone, "train.runner=import", "model.weights=data/raw/theirs")
    try:
        assert stages_run(clone) == FROM_TRAIN_ON
        assert without_provenance(graph) == before
        # TAO has figures of its own only of what it validated in training.
        assert json.loads((clone / "data/metrics/evaluate.json").read_text()) == {**metrics, "tao": {}}
        assert metrics["tao"]
        assert hashlib.sha256(trained.read_bytes()).hexdigest() != former
        assert "data/raw/theirs" in (clone / "data/report/index.html").read_text()
    finally:
        compose(clone)
        # From DVC's cache.
        stages_run(clone)


def test_a_training_parameter_runs_everything_from_train_on(clone: Path) -> None:
    compose(clone, "train.lr=0.0005")
    assert stages_run(clone) == FROM_TRAIN_ON
    assert stages_run(clone, "--dry") == set()
