"""The real pipeline on the smoke profile, in a clone of the working tree: every stage for real, on tiny data."""

import hashlib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from stages import config
from stages.commands import params
from stages.engines.cuda import gpu
from tests.conftest import committed_copy, run
from tests.support import boards

TARGET_STAGES = {"cpu": {"engine@cpu", "verify@cpu", "benchmark@cpu"}, "rtx": {"engine@rtx"}, "gpu": {"engine@gpu"}}
VARIANTS = ("onnx", "cuda")
GRAPH_STAGES = {s for v in VARIANTS for s in (f"export@{v}", f"simplify@{v}", f"precision@{v}-fp16")}
FROM_TRAIN_ON = {"train", "evaluate", "report", *GRAPH_STAGES, *TARGET_STAGES["cpu"], "engine@rtx", "engine@gpu"}
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
    folder = committed_copy(tmp_path_factory.mktemp("pipeline") / "clone")
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
    compose(clone, "targets.gpu.compute_capabilities=['9.0']")
    assert stages_run(clone) == {"engine@gpu", "report"}
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
    assert "not timed: this profile measures cpu" in page


def test_summary_names_the_results(clone: Path) -> None:
    shown = must("python", "-m", "stages.commands.summary", cwd=clone)
    assert re.search(r"^checkpoint +PQ [\d.]+, mIoU [\d.]+, AP [\d.]+$", shown, re.MULTILINE)
    assert re.search(r"^engine cpu .* Hz end to end", shown, re.MULTILINE)
    assert re.search(
        r"^engine rtx .* not measured: that needs a machine of its target \(docs/targets.md\)$", shown, re.MULTILINE
    )
    assert "data/report/index.html" in shown


def test_the_finished_pipeline_is_released(clone: Path, tmp_path: Path) -> None:
    """With a real training, real graphs and real engines: their hashes name each other."""
    own = Path(shutil.copytree(clone, tmp_path / "own", symlinks=True))
    must("git", "add", "-A", cwd=own)
    for key, value in {"user.name": "t", "user.email": "t@example.org"}.items():
        must("git", "config", key, value, cwd=own)
    must("git", "commit", "-qm", "the run", cwd=own)
    must("python", "-m", "stages.commands.release", "--version", "1.0.0", cwd=own)
    must("python", "-m", "stages.commands.release", "--version", "1.0.0", "--check", cwd=own)
    manifest = json.loads((own / "releases/1.0.0/manifest.json").read_text())
    assert set(manifest["engines"]) == set(TARGET_STAGES)
    assert len(list((own / "releases/1.0.0/pictures").iterdir())) == 2


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


README_COMMANDS_NOT_RUN = {
    "make all": "the fixture has run its stages",
    "make test": "this is it",
    "make data SRC=/path/to/vistas.zip NAME=mapillary": "needs Mapillary's set; tests/commands/test_data.py has others",
    "make params PROFILE=mapillary weights": "fetches weights of 100 MB",
    "make all PROFILE=mapillary": "needs a GPU for hours",
}


def test_the_commands_of_the_readme_run(clone: Path, tmp_path: Path) -> None:
    """Each line of its blocks of code, in the finished workspace, with a folder in place of the remote's URL."""
    blocks = re.findall(r"```bash\n(.*?)```", (clone / "README.md").read_text(), re.DOTALL)
    commands = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [command for command in commands if command]
    assert {*README_COMMANDS_NOT_RUN} <= {*commands}
    # An environment of its own, whose programs are the present one's, so that `make env` has nothing to do.
    (clone / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (clone / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    try:
        for command in commands:
            if command in README_COMMANDS_NOT_RUN:
                continue
            (clone / ".venv/.locked").touch()
            words = command.replace("s3://our-bucket/vistas2engine", str(tmp_path / "shared")).split()
            if "remote" in words:
                (tmp_path / "shared").mkdir()
            done = run(*words, *(["BASE=HEAD"] if "diff" in words else []), cwd=clone, PYTHONPATH=str(clone))
            # doctor finds what this machine lacks, such as memory.
            assert done.returncode == 0 or "doctor" in words, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert "Traceback" not in done.stdout + done.stderr
    finally:
        shutil.rmtree(clone / ".venv")
        (clone / ".dvc/config.local").unlink(missing_ok=True)
        must("git", "checkout", "--", ".dvc/config", cwd=clone)
        compose(clone)


def test_push_and_pull(clone: Path, tmp_path: Path) -> None:
    must("dvc", "remote", "add", "--default", "--local", "store", str(tmp_path / "store"), cwd=clone)
    try:
        must("dvc", "push", cwd=clone)
        shutil.rmtree(clone / "data/engines")
        shutil.rmtree(clone / ".dvc/cache")
        must("dvc", "pull", cwd=clone)
    finally:
        must("dvc", "remote", "remove", "--local", "store", cwd=clone)
    assert (clone / "data/engines/cpu/cpu.blob").exists()
    assert stages_run(clone, "--dry") == set()


def test_a_target_of_another_machine_is_left_out(clone: Path) -> None:
    """A run with such a target ends well; the message says what it needs and how to build it."""
    compose(clone, "+target@targets.orin_jp60=orin_jp60", "runnable=[cpu,orin_jp60]")
    try:
        shown = must("python", "-m", "stages.commands.reproduce", cwd=clone)
        (line,) = [line for line in shown.splitlines() if line.startswith("not on this host")]
        assert "orin_jp60: engine@orin_jp60 has never run: target orin_jp60 needs the CPU architecture aarch64" in line
        assert "found x86_64; run `make engine TARGET=orin_jp60` on such a machine" in line
        assert "never built" in (clone / "data/report/index.html").read_text()
        plain = run("dvc", "repro", "report", cwd=clone)
        assert plain.returncode != 0
        assert "needs the CPU architecture aarch64" in plain.stderr + plain.stdout
        assert "Traceback" not in plain.stderr + plain.stdout
    finally:
        compose(clone)
        stages_run(clone)


def test_the_steps_that_add_a_target_work_as_written(clone: Path) -> None:
    """Runs the commands and pastes the lines of docs/targets.md, "Add one", into the profile."""
    page = (clone / "docs/targets.md").read_text()
    steps = page.partition("## Add one\n")[2].partition("\n## ")[0]
    blocks = [(kind, textwrap.dedent(text)) for kind, text in re.findall(r"```(\w+)\n(.*?)```", steps, re.S)]
    (_, copy), (_, defaults), (_, runnable) = blocks
    assert [kind for kind, _ in blocks] == ["sh", "yaml", "yaml"]
    profile = clone / "conf/profile/smoke.yaml"
    before, lock = profile.read_text(), (clone / "dvc.lock").read_text()
    (added,) = re.findall(r"^  - /target@.*\n", defaults, re.M)
    try:
        must("bash", "-ec", copy, cwd=clone)
        profile.write_text(before.replace("  - _self_\n", f"{added}  - _self_\n"))
        must("python", "-m", "stages.commands.params", cwd=clone)
        must("python", "-m", "stages.commands.build_engines", "--target=my_pc", cwd=clone)
        profile.write_text(profile.read_text() + runnable)
        assert profile.read_text().count("my_pc") == 3
        must("python", "-m", "stages.commands.params", cwd=clone)
        shown = must("python", "-m", "stages.commands.reproduce", cwd=clone)
        assert set(re.findall(r"Running stage '([^']+)'", shown)) == {"verify@my_pc", "benchmark@my_pc", "report"}
        shown = must("python", "-m", "stages.commands.summary", cwd=clone)
        assert re.search(r"engine my_pc .* Hz end to end", shown), shown
        must("python", "-m", "stages.commands.check_lock", cwd=clone)
    finally:
        profile.write_text(before)
        (clone / "conf/target/my_pc.yaml").unlink(missing_ok=True)
        for path in clone.glob("data/metrics/*my_pc.json"):
            path.unlink()
        for folder in ("engines", "verify"):
            shutil.rmtree(clone / "data" / folder / "my_pc", ignore_errors=True)
        (clone / "dvc.lock").write_text(lock)
        compose(clone)
        stages_run(clone)


def test_the_same_inputs_give_the_same_graph_in_another_process(clone: Path, tmp_path: Path) -> None:
    """Python orders sets anew in each process. All graphs are compared, so that dvc.lock is the same in two clones."""
    for seed in ("1", "2"):
        out = tmp_path / seed
        done = run(
            "python", "-m", "stages.simplify", "--exported", "data/onnx/cuda/exported", "--out", str(out / "fp32"),
            "--metrics", str(out / "simplify.json"), cwd=clone, PYTHONHASHSEED=seed,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    first, second = (
        {
            p.relative_to(tmp_path / seed): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in (tmp_path / seed).rglob("*.*")
        }
        for seed in ("1", "2")
    )
    assert first == second


BOARD = (
    "+target@targets.board=cpu",
    "targets.board.builder=onnxruntime",
    "targets.board.builder_version='1.32'",
    "targets.board.threads=1",
    "runnable=[cpu,board]",
)
"""A target that stands for another machine: the same CPU, but another builder, in a folder without DVC and git."""


@pytest.fixture(scope="module")
def board_engine(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with an engine that the other machine built from its kit, in a folder that has nothing else.

    The workspace's host lacks the builder here, as it lacks TensorRT, so that the kit has the graph.
    """
    compose(clone, *BOARD)
    folder = tmp_path_factory.mktemp("machines") / "a board"
    (folder / "lacking/onnxruntime").mkdir(parents=True)
    (folder / "lacking/onnxruntime/__init__.py").write_text("raise ImportError('not on this host')")
    make_kit = ("python", "-m", "stages.commands.kit", "--target", "board", "--out", str(folder / "kit.tar"))
    done = run(*make_kit, cwd=clone, PYTHONPATH=str(folder / "lacking"))
    assert done.returncode == 0, done.stderr
    assert "with the graph, from which that machine builds" in done.stdout
    must("tar", "xf", "kit.tar", cwd=folder)
    assert not (folder / "kit_board/data/checkpoint").exists()
    assert not (folder / "kit_board/data/engines").exists()
    done = run("python", "kit_board", "verify", cwd=folder, PYTHONPATH="")
    assert (done.returncode, done.stderr) == (
        1, "no engine here yet: this machine builds it; run `python3 kit_board build`\n",
    )  # fmt: skip
    for line in (folder / "kit_board/README").read_text().splitlines()[:3]:
        shown = must("python", *line.split()[1:], cwd=folder)
    assert "make import-results FILE=results_board.tar" in shown
    compose(clone)
    return folder / "kit_board/outputs/results_board.tar"


@pytest.fixture(scope="module")
def measured(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the workspace's own engine, measured with its kit in a clean Python 3.10 with OpenVINO."""
    folder = tmp_path_factory.mktemp("measured")
    compose(clone)
    version = config.load(clone / "params.yaml").targets["cpu"].builder_version
    python = boards.clean_python(folder / "venv", f"openvino=={version}")
    shown = must("python", "-m", "stages.commands.kit", "--target", "cpu", "--out", str(folder / "kit.tar"), cwd=clone)
    assert "with the engine." in shown
    must("tar", "xf", "kit.tar", cwd=folder)
    assert not (folder / "kit_cpu/data/onnx").exists()
    assert list(config.load(folder / "kit_cpu/params.json").targets) == ["cpu"]
    pictures = sorted((folder / "kit_cpu/data/raw").rglob("images"))
    verify, benchmark, predict = (folder / "kit_cpu/README").read_text().splitlines()
    assert predict == "python3 kit_cpu predict SOURCE --out seen"
    for line, expected in ((verify, "next: python3 kit_cpu benchmark"), (benchmark, "results_cpu.tar")):
        done = boards.on(python, *line.split()[1:], cwd=folder)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    done = boards.on(python, "kit_cpu", "predict", str(pictures[0]), "--out", "seen", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "seen/segments.jsonl").exists()
    return folder / "kit_cpu/outputs/results_cpu.tar"


def test_a_kit_for_a_gpu_says_that_there_is_none(clone: Path, tmp_path: Path) -> None:
    if gpu.current():
        pytest.skip("this host has a GPU")
    python = boards.clean_python(tmp_path / "venv")
    shown = must(
        "python", "-m", "stages.commands.kit", "--target", "gpu", "--out", str(tmp_path / "kit.tar"), cwd=clone
    )
    assert "Add gpu to `runnable`" in shown
    must("tar", "xf", "kit.tar", cwd=tmp_path)
    for command in (["verify"], ["benchmark"], ["predict", str(clone / "data/raw/sample/validation/images")]):
        done = boards.on(python, "kit_gpu", *command, cwd=tmp_path)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("target gpu needs a GPU of compute capability 7.5 or ")
        assert "found no NVIDIA GPU or no driver; run it on such a machine" in line
    assert not (tmp_path / "kit_gpu/outputs").exists()


def repacked(tar_file: Path, folder: Path, change: Callable[[Path], None], forged: bool = True) -> Path:
    """Unpack into `folder`, change something, and pack it again; `forged` with records that fit the changed files."""
    must("tar", "xf", str(tar_file), "-C", str(folder), cwd=folder)
    change(folder / "data")
    if forged:
        boards.reseal(folder)
    must("tar", "cf", "changed.tar", "results.json", "data", cwd=folder)
    return folder / "changed.tar"


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_graph(path: Path, **values: object) -> None:
    edit_json(path, graph={**json.loads(path.read_text())["graph"], **values})


def edit_record(path: Path, stage: str, **values: object) -> None:
    stages = json.loads(path.read_text())["stages"]
    edit_json(path, stages={**stages, stage: {**stages[stage], **values}})


WRONG = {
    "another engine's figures": (
        lambda data: edit_json(data / "metrics/verify_board.json", engine_sha256="0" * 64),
        "verify_board.json has figures of engine 0000",
    ),
    "other bytes": (
        lambda data: (data / "engines/board/board.onnx").write_bytes(b"other"),
        "in the results (board.onnx)",
    ),
    "another target's fields": (
        lambda data: edit_json(data / "engines/board/engine.json", architecture="aarch64"),
        "has targets.board.architecture 'aarch64', params.yaml has 'x86_64'",
    ),
    "another graph": (
        lambda data: edit_graph(data / "engines/board/engine.json", sha256="0" * 64),
        "engine board is of graph 0000",
    ),
    "an engine that is not accurate": (
        lambda data: edit_json(data / "metrics/verify_board.json", pixel_agreement_pct=12.5),
        "agrees with the checkpoint on 12.500 % of pixels, required",
    ),
    "too few pictures": (
        lambda data: edit_json(data / "metrics/verify_board.json", pictures=1),
        "was verified on 1 pictures, the validation set has",
    ),
    "other code": (
        lambda data: edit_json(data / "engines/board/build.json", code_sha256="0"),
        "was built by other code (commit",
    ),
    "measured by other code": (
        lambda data: edit_record(data.parent / "results.json", "benchmark", code_sha256="0"),
        "was measured by other code (commit",
    ),
    "other data": (
        lambda data: edit_record(data.parent / "results.json", "verify", inputs={}),
        "was measured on another validation set",
    ),
    "timed otherwise": (
        lambda data: edit_record(data.parent / "results.json", "benchmark", parameters={"frames": 3}),
        "was timed with benchmark {'frames': 3}, params.yaml has",
    ),
    "not measured": (
        lambda data: edit_json(data.parent / "results.json", stages={}),
        "found the stages [], expected verify and benchmark",
    ),
    "no record of the build": (
        lambda data: edit_json(data / "engines/board/build.json", engine_sha256="0"),
        "no build.json",
    ),
    "a part is missing": (
        lambda data: (data / "metrics/benchmark_board.json").unlink(),
        "benchmark_board.json is not as `benchmark` wrote it: SHA-256 no such file",
    ),
    "a file too many": (
        lambda data: (data / "engines/board/more").write_text("x"),
        "engines/board/more, which no stage",
    ),
    "a link": (lambda data: (data / "engines/board/more").symlink_to("/etc/passwd"), "engines/board/more in it"),
    "an older file": (lambda data: (data.parent / "results.json").write_text("{}"), "results.json: "),
}
EDITED = {
    "accuracy": (
        lambda data: edit_json(data / "metrics/verify_cpu.json", pq=99.0),
        "verify_cpu.json is not as `verify`",
    ),
    "speed": (lambda data: edit_json(data / "metrics/benchmark_cpu.json", frames=1), "is not as `benchmark` wrote it"),
    "a map": (lambda data: next((data / "verify/cpu/panoptic").iterdir()).write_bytes(b""), "is not as `verify` wrote"),
}


def refused(clone: Path, results: Path, message: str) -> None:
    lock, metrics = (clone / "dvc.lock").read_bytes(), read_all(clone / "data/metrics")
    done = run("python", "-m", "stages.commands.import_results", str(results), cwd=clone)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line
    assert (clone / "dvc.lock").read_bytes() == lock
    assert read_all(clone / "data/metrics") == metrics


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_engine_is_refused(clone: Path, board_engine: Path, kind: str, tmp_path: Path) -> None:
    change, message = WRONG[kind]
    compose(clone, *BOARD)
    try:
        refused(
            clone, repacked(board_engine, tmp_path, change, kind not in {"a part is missing", "an older file"}), message
        )
        assert not (clone / "data/engines/board").exists()
    finally:
        compose(clone)


@pytest.mark.parametrize("kind", EDITED)
def test_figures_that_were_edited_by_hand_are_refused(clone: Path, measured: Path, kind: str, tmp_path: Path) -> None:
    change, message = EDITED[kind]
    refused(clone, repacked(measured, tmp_path, change, forged=False), message)


def test_edits_before_the_results_are_packed_are_refused_there(measured: Path, tmp_path: Path) -> None:
    kit = Path(shutil.copytree(measured.parents[1], tmp_path / "kit_cpu", symlinks=True))
    edit_json(kit / "data/metrics/verify_cpu.json", pq=99.0)
    done = boards.on(measured.parents[2] / "venv/bin/python", "kit_cpu", "benchmark", cwd=tmp_path)
    assert done.returncode == 1
    assert "verify_cpu.json is not as `verify` wrote it" in done.stderr.splitlines()[-1]


def test_results_of_an_engine_that_is_not_here_are_refused(clone: Path, measured: Path, tmp_path: Path) -> None:
    def change(data: Path) -> None:
        manifest = data / "engines/cpu/engine.json"
        edit_json(manifest, engine={**json.loads(manifest.read_text())["engine"], "sha256": "0" * 64})

    refused(
        clone, repacked(measured, tmp_path, change), "in data/engines/cpu of this workspace (cpu.blob); measure again"
    )


def test_figures_of_the_engine_here_are_imported(clone: Path, measured: Path) -> None:
    before = read_all(clone / "data/metrics")
    engine = (clone / "data/engines/cpu/engine.json").stat()
    shown = must("python", "-m", "stages.commands.import_results", str(measured), cwd=clone)
    assert "engine cpu, measured on " in shown
    try:
        assert stages_run(clone) == {"report"}
        timed = json.loads((clone / "data/metrics/benchmark_cpu.json").read_text())
        assert timed["host"]["python"].startswith("3.10.")
        assert "eager" not in timed
        assert (clone / "data/engines/cpu/engine.json").stat() == engine
    finally:
        for name, content in before.items():
            (clone / "data/metrics" / name).write_bytes(content)
        must("dvc", "commit", "-q", "-f", "benchmark@cpu", "verify@cpu", cwd=clone)
        stages_run(clone)


def test_a_workspace_that_changed_since_takes_no_engine(clone: Path, board_engine: Path) -> None:
    for overrides, message in (
        ((), "these are results of target board, params.yaml has cpu, rtx, gpu; add it to the profile"),
        ((*BOARD, "runnable=[cpu]"), "target board is not in `runnable` (cpu)"),
        ((*BOARD, "targets.board.threads=2"), "has targets.board.threads 1, params.yaml has 2"),
        ((*BOARD, "deploy.overlap_threshold=0.1"), "is out of date"),
    ):
        compose(clone, *overrides)
        done = run("python", "-m", "stages.commands.import_results", str(board_engine), cwd=clone)
        compose(clone)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_an_engine_of_another_machine_is_imported(clone: Path, board_engine: Path) -> None:
    compose(clone, *BOARD)
    try:
        shown = must("python", "-m", "stages.commands.import_results", str(board_engine), cwd=clone)
        assert "git add dvc.lock data/metrics" in shown
        assert stages_run(clone) == {"report"}
        verified, timed = (
            json.loads((clone / f"data/metrics/{stage}_board.json").read_text()) for stage in ("verify", "benchmark")
        )
        assert verified["pixel_agreement_pct"] > 99.9
        assert "eager" not in timed
        assert timed["built"]["engine_sha256"] == timed["engine_sha256"] == verified["engine_sha256"]
        assert "engine board" in must("python", "-m", "stages.commands.summary", cwd=clone)
        # Who built it is no content of the output.
        assert "build.json" not in must("dvc", "ls", ".", "data/engines/board", "--dvc-only", cwd=clone)
    finally:
        compose(clone)
        stages_run(clone)


def test_a_clone_pulls_what_an_engine_needs(clone: Path, tmp_path: Path) -> None:
    compose(clone, *BOARD)
    board, store = tmp_path / "a clone", tmp_path / "store"
    try:
        must("dvc", "remote", "add", "--default", "--local", "store", str(store), cwd=clone)
        must("dvc", "push", "data/onnx/onnx/fp32", "data/evaluate", "data/coco", "data/raw/sample", cwd=clone)
        must("git", "clone", "-q", str(clone), str(board), cwd=tmp_path)
        for name in ("params.yaml", "dvc.lock"):
            shutil.copy(clone / name, board / name)
        must("dvc", "remote", "add", "--default", "--local", "store", str(store), cwd=board)
        must("dvc", "remote", "add", "--default", "--local", "gone", "ssh://127.0.0.1:1/x", cwd=board)
        (line, *_) = run("make", "engine", "TARGET=board", cwd=board).stderr.splitlines()
        assert "remote gone, ssh://127.0.0.1:1/x: it can't be reached" in line
        must("dvc", "remote", "default", "--local", "store", cwd=board)
        # A truncated object, of a remote that was set by hand, without verify.
        cut = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        whole = cut.read_bytes()
        cut.chmod(0o644)
        cut.write_bytes(whole[:-1])
        refused = run("make", "engine", "TARGET=board", cwd=board)
        assert refused.returncode != 0
        assert f"remote store, {store}: dvc pull failed" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not (board / "outputs/results_board.tar").exists()
        cut.parent.mkdir(exist_ok=True)
        cut.unlink(missing_ok=True)
        cut.write_bytes(whole)
        must("make", "engine", "TARGET=board", cwd=board)
        assert (board / "outputs/results_board.tar").stat().st_size > 1e6
        assert not (board / "data/checkpoint").exists()
        assert not (board / "data/raw/sample/training").exists()
    finally:
        must("dvc", "remote", "remove", "--local", "store", cwd=clone)
        compose(clone)


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
