"""The device side on AArch64: an engine is built there, and finds what the same engine finds on this host.

Both sides have the same versions of the packages, so only the CPU differs. See tests/support/aarch64.py.
"""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import config, engine, export, sample, simplify
from stages.coco import panoptic
from stages.commands import kit as kits
from stages.engines import build_record, interface, loading, manifest
from stages.foundation import files, picture_files
from stages.inference import description
from stages.media import recording
from stages.onnx_graph import artifact
from tests.conftest import REPO, run
from tests.engines.test_kernels import GPUS, network
from tests.project.test_device_side import FOLDERS, STAGES
from tests.support import aarch64, boards, networks

pytestmark = pytest.mark.slow

GRAPH, COCO, MAPS = Path("data/onnx/onnx/fp32"), Path("data/coco/val"), Path("data/evaluate")
NUM_THINGS = 70
CATEGORIES: list[Any] = [
    {"id": i + 1, "name": f"class_{i}", "supercategory": "", "isthing": int(i < NUM_THINGS), "color": [i, 2 * i, 99]}
    for i in range(networks.CLASSES)
]
MIN_AGREEMENT_PCT = 99.9
"""Pixels of a picture that are in the same segment of the same class on both sides. The rest, 40 pixels, is room for
sums in another order: at the edges of segments, and for segments of few pixels."""


def target(architecture: str) -> config.Target:
    found = config.Target(builder=config.Builder.onnxruntime, builder_version="1", architecture=architecture, threads=1)
    found.builder_version = interface.backend(found).installed_version(found)
    return found


@pytest.fixture(scope="module")
def board() -> Path:
    """The board's Python."""
    try:
        return aarch64.python()
    except aarch64.UnavailableError as error:
        pytest.skip(f"no AArch64 user space: {error}")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> Path:
    """A folder with what a board gets: code, graph, parameters and pictures.

    In place of the checkpoint's maps it has those of this host's engine `x86_cpu`, which is there too. The network's
    weights are random.
    """
    folder = tmp_path_factory.mktemp("board") / "kit_arm_cpu"
    copy_code(folder, "arm_cpu")
    cfg = config.load(REPO / "params.yaml")
    # Small, since the CPU is emulated. Pictures have the frame's size: OpenCV scales them on Arm by other code, whose
    # pixels differ by 1 of 255 (docs/targets.md).
    cfg.deploy.frame_height_px, cfg.deploy.frame_width_px = 160, 256
    cfg.deploy.height_px, cfg.deploy.width_px = 128, 192
    # Random weights are sure of nothing.
    cfg.deploy.object_mask_threshold, cfg.deploy.overlap_threshold = 0.05, 0
    cfg.targets = {"x86_cpu": target("x86_64"), "arm_cpu": target("aarch64")}
    cfg.runnable = ["arm_cpu"]
    cfg.benchmark.frames, cfg.benchmark.warmup_frames = 10, 1
    # A segment of few pixels, which may come and go, weighs as much in PQ as a large one.
    cfg.verify.min_pixel_agreement_pct, cfg.verify.max_pq_difference = MIN_AGREEMENT_PCT, 100
    files.write_json(folder / "params.json", config.plain(cfg))

    net = networks.random_tao(tmp_path_factory.mktemp("tao"), cfg, seed=1)
    model = simplify.simplify(export.trace(net, config.Variant.onnx, NUM_THINGS, cfg.deploy), cfg.deploy)
    (folder / GRAPH).mkdir(parents=True)
    about = description.Description(config.plain(cfg.deploy), config.Variant.onnx.value, CATEGORIES)
    artifact.save(model, folder / GRAPH, about)

    x86 = folder / "data/engines/x86_cpu"
    engine.build(folder / GRAPH, x86, "x86_cpu", cfg.targets["x86_cpu"], folder / "t", folder / "engine.json")
    predictor = loading.load(x86, "x86_cpu", cfg.targets["x86_cpu"])
    sample.build(folder / "set", config.Sample(train_images=1, val_images=2, height_px=160, width_px=256))
    writers = [panoptic.Writer(folder / name, CATEGORIES) for name in (COCO, MAPS)]
    for number, path in enumerate(sorted((folder / "set/validation/images").iterdir())):
        shutil.copy(path, folder / COCO)
        (found,) = predictor.segments([picture_files.read_rgb(path)])
        assert len(found.category_ids) > 3
        for writer in writers:
            entry = panoptic.Entry(number, path, Path(f"{path.stem}.png"), [])
            writer.add(entry, found.ids, found.category_ids)
    for writer in writers:
        writer.close()
    about = {"format": "vistas", "category_ids_everywhere": [c["id"] for c in CATEGORIES], "category_ids_partly": []}
    files.write_json(folder / COCO / "sources.json", {"": about})
    return folder


def copy_code(folder: Path, name: str) -> None:
    """Write what `make kit` writes beside parameters and data."""
    for path in (REPO / code for code in kits.CODE):
        out = folder / path.relative_to(REPO)
        out.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, out, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, out)
    shutil.copy(kits.MAIN, folder / "__main__.py")
    files.write_json(folder / build_record.KIT, {"target": name, "commit": "", "dirty": True})


def on_board(board: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return boards.on(board, *arguments, cwd=cwd, PYTHONPATH=str(REPO))


def must(board: Path, *arguments: str, cwd: Path) -> str:
    done = on_board(board, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(board: Path, kit: Path) -> Path:
    """The engine's folder, after the kit's commands on the board: built, verified, timed and packed."""
    for command in ("build", "verify", "benchmark"):
        done = boards.on(board, kit.name, command, cwd=kit.parent)
        assert done.returncode == 0, done.stderr
    with tarfile.open(kit / "outputs/results_arm_cpu.tar") as tar:
        assert {"data/engines/arm_cpu/build.json", "data/metrics/benchmark_arm_cpu.json"} <= set(tar.getnames())
    return kit / "data/engines/arm_cpu"


CHECKS = """
import importlib, json, sys
from pathlib import Path
from stages import config
from stages.engines import manifest
for name in {modules}: importlib.import_module(name)
cfg = config.load(Path("params.json"))
said = {{}}
for name, target in cfg.targets.items():
    try:
        manifest.check_host(name, target)
        said[name] = "buildable"
    except (RuntimeError, ModuleNotFoundError) as error:
        said[name] = str(error)
print(json.dumps([manifest.cpu_model(), said]))
"""


def test_the_device_side_is_imported_and_knows_its_host(board: Path, tmp_path: Path) -> None:
    found = [path for name in FOLDERS for path in (REPO / "stages" / name).rglob("*.py") if path.stem != "__init__"]
    modules = [*STAGES, *(".".join(path.relative_to(REPO).with_suffix("").parts) for path in found)]
    targets = [f"+target@targets.{name}={name}" for name in ("orin_jp60",)]
    arm = ["++targets.cpu.builder=onnxruntime", f"++targets.cpu.builder_version={target('x86_64').builder_version}"]
    params = tmp_path / "params.json"
    done = run("python", "-m", "stages.commands.params", "--out", str(params), *targets, *arm, cwd=REPO)
    assert done.returncode == 0, done.stderr
    content = files.read_json(params)
    content["targets"]["arm_cpu"] = {**content["targets"]["cpu"], "architecture": "aarch64"}
    files.write_json(params, content)

    cpu, said = json.loads(must(board, "-W", "error", "-c", CHECKS.format(modules=modules), cwd=tmp_path))
    assert cpu == "Arm Cortex-A76"
    assert said["arm_cpu"] == "buildable"
    assert said["cpu"].startswith("target cpu needs the CPU architecture x86_64, found aarch64; ")
    # It has the architecture, but not TensorRT.
    expected = (
        "target orin_jp60 needs tensorrt 8.6 and a GPU of compute capability 8.7: Python module tensorrt can't be"
    )
    assert said["orin_jp60"].startswith(expected)


def test_the_engine_finds_there_what_it_finds_here(board: Path, kit: Path, built: Path) -> None:
    """Segments of one class are paired by their overlap, so one that is missing there costs all of its pixels."""
    figures = files.read_json(kit / "data/metrics/verify_arm_cpu.json")
    assert figures["pictures"] == 2
    assert figures["worst_picture_agreement_pct"] >= MIN_AGREEMENT_PCT

    entry = panoptic.read(kit / "data/verify/arm_cpu").entries[0]
    picture = kit / COCO / f"{entry.png.stem}.jpg"
    predict = ("-m", "stages.commands.predict", "--source", str(picture), "--out", "seen", "--engine", str(built))
    must(board, *predict, cwd=kit)
    (line,) = (kit / "seen" / recording.SEGMENTS_NAME).read_text().splitlines()
    predicted = {s["id"]: (s["category_id"], s["area_px"]) for s in json.loads(line)["segments"]}
    areas = np.bincount(panoptic.read_ids(entry.png).ravel())
    assert predicted == {s["id"]: (s["category_id"], areas[s["id"]]) for s in entry.segments}


def test_each_side_refuses_the_others_engine(board: Path, kit: Path, built: Path) -> None:
    content = files.read_json(built / manifest.NAME)
    assert (content["target"], content["architecture"]) == ("arm_cpu", "aarch64")
    command = ("-m", "stages.commands.predict", "--source", str(kit / "set/validation/images"), "--engine")
    done = run("python", *command, str(built), cwd=kit, PYTHONPATH=str(REPO))
    expected = "target arm_cpu needs the CPU architecture aarch64, found x86_64; run it on such a machine\n"
    assert (done.returncode, done.stderr) == (1, expected)
    with pytest.raises(RuntimeError, match="architecture must be 'x86_64' here, found 'aarch64'"):
        manifest.verified_engine(built, "arm_cpu", target("x86_64"))

    done = on_board(board, *command, str(kit / "data/engines/x86_cpu"), cwd=kit)
    expected = "target x86_cpu needs the CPU architecture x86_64, found aarch64; run it on such a machine\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_an_engine_of_our_kernels_needs_nothing_there_but_a_gpu(board: Path, kit: Path, tmp_path: Path) -> None:
    """It was built here, on another architecture: all is checked there up to the GPU, which the emulation lacks."""
    folder = tmp_path / "kit_orin"
    copy_code(folder, "orin")
    shutil.copytree(kit / "data/coco", folder / "data/coco")
    shutil.copytree(kit / "data/evaluate", folder / "data/evaluate")
    cfg = config.load(kit / "params.json")
    cfg.targets, cfg.runnable = {"orin": GPUS}, ["orin"]
    files.write_json(folder / "params.json", config.plain(cfg))
    (tmp_path / "graph").mkdir()
    artifact.save(network(), tmp_path / "graph", description.Description({}, "cuda", CATEGORIES))
    built = folder / "data/engines/orin"
    engine.build(tmp_path / "graph", built, "orin", GPUS, tmp_path / "cache", tmp_path / "engine.json")

    picture = str(next((folder / COCO).glob("*.jpg")))
    for command in (["verify"], ["benchmark"], ["predict", picture]):
        done = boards.on(board, folder.name, *command, cwd=tmp_path)
        expected = (
            "target orin needs a GPU of compute capability 8.6 or 9.0, or a later one, found no NVIDIA GPU or no driver"
        )
        assert (done.returncode, done.stderr) == (1, f"{expected}; run it on such a machine\n")

    done = boards.on(board, folder.name, "tune", cwd=tmp_path)
    expected = "tiles are measured on a GPU, found no NVIDIA GPU or no driver; run it on the target's board\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert not (tmp_path / "tiles_orin.yaml").exists()

    file = built / str(files.read_json(built / manifest.NAME)["engine"]["file"])
    file.write_bytes(file.read_bytes()[:-1])
    done = boards.on(board, folder.name, "verify", cwd=tmp_path)
    assert done.returncode == 1
    assert "is not the manifest's" in done.stderr
