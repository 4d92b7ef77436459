"""NVIDIA's TAO Deploy on graphs of deploy.graph tao: its own steps before and after the engine, compared with ours."""

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml

from stages import config, engine, export, simplify
from stages.coco import panoptic
from stages.commands import tao_deploy
from stages.foundation import files
from stages.inference import description, frames, segments
from stages.inference.predictor import Predictor
from stages.onnx_graph import artifact
from tests.conftest import REPO
from tests.support import networks

TAO = config.GraphKind.tao
PANOPTIC, SEMANTIC, _ = config.Mode
SIZE = (192, 288)
THINGS = 70
CATEGORIES = [
    {"id": i, "name": f"class {i}", "color": [i, 255 - i, 7 * i % 256], "isthing": int(i <= THINGS)}
    for i in range(1, networks.CLASSES + 1)
]


def deploy(mode: config.Mode) -> config.Deploy:
    height, width = SIZE
    return config.Deploy(
        graph=TAO, mode=mode, frame_height_px=height, frame_width_px=width, height_px=height, width_px=width,
        resize=config.Resize.stretch, object_mask_threshold=0.05, overlap_threshold=0.1,
    )  # fmt: skip


def pictures(folder: Path, count: int = 4) -> list[np.ndarray]:
    """Write pictures of the graph's size, which no library has to scale, as PNG; return them in RGB."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    found = []
    for number in range(count):
        small = rng.integers(0, 256, (6 + number, 9 + number, 3), dtype=np.uint8)
        found.append(cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
        cv2.imwrite(str(folder / f"{number}.png"), found[-1][..., ::-1])
    return found


def coco(folder: Path, shown: list[np.ndarray]) -> Path:
    """Write a split in COCO panoptic with pictures beside it: things, stuff and void."""
    images, annotations = [], []
    (folder / "panoptic").mkdir(parents=True)
    for number in range(len(shown)):
        ids = np.zeros(SIZE, np.int32)
        ids[:90], ids[100:150, 20 + number : 90], ids[100:150, 120:200] = 1, 2, 70000
        panoptic.write_ids(folder / "panoptic" / f"{number}.png", ids)
        images.append({"id": number, "file_name": f"../pictures/{number}.png", "height": SIZE[0], "width": SIZE[1]})
        found = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": int((ids == i).sum())}
            for i, c in ((1, 100), (2, 5), (70000, 6))
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": found})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The folder of an engine of TensorRT for a panoptic graph. Its bytes are none of TensorRT's."""
    about = description.Description(config.plain(deploy(PANOPTIC)), "onnx", CATEGORIES)
    target = config.Target(
        builder=config.Builder.tensorrt, builder_version="10.13.3.9", device=config.Device.cuda,
        compute_capabilities=["9.0"],
    )  # fmt: skip
    folder = tmp_path / "engine of ours"
    folder.mkdir()
    (folder / "h100.engine").write_bytes(b"plan")
    content = {**config.plain(target), "target": "h100", "graph": vars(about)}
    content["engine"] = {"file": "h100.engine", "bytes": 4, "sha256": files.sha256(folder / "h100.engine")}
    files.write_json(folder / "engine.json", content)
    return folder


def write_spec(plan: Path, split: Path, out: Path) -> dict[str, Any]:
    tao_deploy.build(plan, split, out.parent / "label map.json", split.parent / "pictures", out)
    content: dict[str, Any] = yaml.safe_load((out / "spec.yaml").read_text())
    return content


def test_the_spec_names_the_engine_and_its_set(plan: Path, tmp_path: Path) -> None:
    split = coco(tmp_path / "val", pictures(tmp_path / "pictures"))
    found = write_spec(plan, split, tmp_path / "out")
    assert found["inference"] == found["evaluate"] == {"trt_engine": str(plan / "h100.engine")}
    assert found["model"]["mode"] == "panoptic"
    assert found["model"]["sem_seg_head"] == {"num_classes": networks.CLASSES}
    assert (found["model"]["object_mask_threshold"], found["model"]["overlap_threshold"]) == (0.05, 0.1)
    assert found["dataset"]["val"]["panoptic_json"] == str(split / "panoptic.json")
    # TAO Deploy's results lie beside the spec, which the next run replaces.
    (tmp_path / "out/results").mkdir()
    (tmp_path / "out/results/experiment.yaml").write_text("TAO's")
    assert write_spec(plan, split, tmp_path / "out") == found
    assert (tmp_path / "out/results/experiment.yaml").read_text() == "TAO's"
    (tmp_path / "out/spec.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"spec\.yaml is there, and this command did not write it"):
        write_spec(plan, split, tmp_path / "out")
    assert (tmp_path / "out/spec.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": "fused"}, "an engine of deploy.graph fused, expected tao"),
        ({"resize": "pad", "frame_width_px": 300}, "an engine of deploy.resize pad, expected stretch"),
        ({"mode": "semantic", "batch_size": 3}, "has 4 pictures, expected a multiple of deploy.batch_size 3"),
        (None, "an engine of onnxruntime, expected one of standard TensorRT"),
    ],
)
def test_an_engine_that_tao_deploy_would_get_wrong_is_refused(
    plan: Path, tmp_path: Path, change: dict[str, Any] | None, message: str
) -> None:
    split = coco(tmp_path / "val", pictures(tmp_path / "pictures"))
    content = files.read_json(plan / "engine.json")
    if change is None:
        content |= {"builder": "onnxruntime", "device": "cpu", "compute_capabilities": []}
    else:
        content["graph"]["deploy"] |= change
    files.write_json(plan / "engine.json", content)
    with pytest.raises(ValueError, match=message):
        write_spec(plan, split, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The wheel itself, in an environment of its own.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/tao_deploy installs but for TensorRT and PyCUDA, and ONNX Runtime in their place."""
    folder = tmp_path_factory.mktemp("tao deploy") / "venv"
    variables = os.environ | {"TAO_DEPLOY_ENVIRONMENT": str(folder)}
    subprocess.run([REPO / "scripts/tao_deploy", "--install"], env=variables, check=True)
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", folder / "bin/python", "onnxruntime==1.32.0"], check=True
    )
    return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> Any:
    return networks.random_tao(tmp_path_factory.mktemp("tao"), config.load(REPO / "params.yaml"))


class Run:
    """A task of the wheel on the graph of a network with random weights, and our own answers to the same pictures."""

    def __init__(self, task: str, mode: config.Mode, net: Any, environment: Path, folder: Path) -> None:
        self.cfg = deploy(mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = simplify.simplify(export.trace(net, config.Variant.onnx, THINGS, self.cfg), self.cfg)
        about = description.Description(config.plain(self.cfg), "onnx", CATEGORIES)
        (folder / "graph").mkdir()
        artifact.save(model, folder / "graph", about)
        self.pictures = pictures(folder / "pictures")
        split = coco(folder / "val", self.pictures)
        (folder / "label map.json").write_text(json.dumps(CATEGORIES))
        paths = [folder / "none.engine", split, folder / "label map.json", folder / "pictures", folder / "out"]
        (folder / "none.engine").touch()
        (folder / "spec.yaml").write_text(yaml.safe_dump(tao_deploy.spec(about, *paths)))
        command = [environment / "bin/python", REPO / "tests/support/tao_deploy_on_cpu.py"]
        command += [REPO / "integrations/tao_deploy/run.py", task, folder / "graph/graph.onnx", folder / "spec.yaml"]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([*command, folder], env=clean, cwd=folder, capture_output=True, text=True, check=False)
        self.said = done.stdout + done.stderr
        assert done.returncode == 0, self.said
        self.found = np.load(folder / "found.npz")
        self.segments = json.loads((folder / "segments.json").read_text())
        session = onnxruntime.InferenceSession(folder / "graph/graph.onnx", providers=["CPUExecutionProvider"])
        self.names = [output.name for output in session.get_outputs()]
        self.predictor = Predictor(
            lambda array: dict(zip(self.names, session.run(None, {"inputs": array}), strict=True)), about
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_taos_panoptic_merge_is_ours(net: Any, environment: Path, tmp_path: Path) -> None:
    """Pixel by pixel, where both merge the same outputs; and from the pictures on."""
    ran = Run("inference", PANOPTIC, net, environment, tmp_path)
    equal, merged = [], set[bool]()
    for rgb, fed, ids, listed in zip(
        ran.pictures, ran.found["inputs"][::2], ran.found["maps"], ran.segments, strict=True
    ):
        own = frames.network_input(rgb[None], ran.cfg)
        assert np.abs(fed - own).max() < 1e-6
        outputs = ran.predictor.infer(np.ascontiguousarray(fed, np.float32))
        same = segments.decode(outputs, 0, ran.cfg, THINGS)
        assert np.array_equal(ids, same.ids)
        assert {row["id"]: row["category_id"] + 1 for row in listed} == same.category_ids
        assert {row["id"]: row["isthing"] for row in listed} == {i: c <= THINGS for i, c in same.category_ids.items()}
        (whole,) = ran.predictor.segments([rgb])
        equal.append((whole.ids == ids).mean())
        merged |= {row["isthing"] for row in listed}
    # There must be something to merge.
    assert merged == {True, False}
    assert min(equal) > 0.9999


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_taos_evaluation_judges_the_maps_that_are_ours(net: Any, environment: Path, tmp_path: Path) -> None:
    ran = Run("evaluate", SEMANTIC, net, environment, tmp_path)
    intersection = np.zeros(networks.CLASSES)
    union = np.zeros(networks.CLASSES)
    for number, rgb in enumerate(ran.pictures):
        (whole,) = ran.predictor.segments([rgb])
        found, truth = ran.found["maps"][number][0], ran.found["truth"][number][0]
        assert (whole.ids == found + 1).mean() > 0.9999
        ids = panoptic.read(tmp_path / "val").entries[number]
        classes = {0: 0} | {segment["id"]: segment["category_id"] for segment in ids.segments}
        wanted = np.vectorize(classes.get)(panoptic.read_ids(ids.png))
        # The wheel's function replaces 0 by 255 in the array that it gets, after it was kept.
        assert np.array_equal(truth, wanted)
        for number_of_class in range(networks.CLASSES):
            predicted, real = found == number_of_class, truth == number_of_class + 1
            intersection[number_of_class] += (predicted & real).sum()
            union[number_of_class] += ((predicted & (truth > 0)) | real).sum()
    with np.errstate(invalid="ignore"):
        miou = np.nanmean(intersection / union)
    assert f"mIOU: {miou:2.2f}" in ran.said


@pytest.mark.gpu
@pytest.mark.slow
def test_the_wheel_evaluates_an_engine_on_a_gpu(net: Any, tmp_path: Path) -> None:
    """Needs TensorRT 10.13 (make env EXTRAS=tensorrt10), NVIDIA's index, and CUDA's toolkit to compile PyCUDA."""
    from stages.engines.cuda import gpu, tensorrt

    version, here = tensorrt.installed_version(config.Target()), gpu.current()
    assert here is not None
    cfg = deploy(SEMANTIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = simplify.simplify(export.trace(net, config.Variant.onnx, THINGS, cfg), cfg)
    (tmp_path / "graph").mkdir()
    artifact.save(model, tmp_path / "graph", description.Description(config.plain(cfg), "onnx", CATEGORIES))
    target = config.Target(
        builder=config.Builder.tensorrt, builder_version=version, device=config.Device.cuda,
        compute_capabilities=[here.compute_capability],
    )  # fmt: skip
    engine.build(tmp_path / "graph", tmp_path / "here", "here", target, tmp_path / "cache", tmp_path / "metrics.json")
    split = coco(tmp_path / "val", pictures(tmp_path / "pictures"))
    (tmp_path / "label map.json").write_text(json.dumps(CATEGORIES))
    write_spec(tmp_path / "here", split, tmp_path / "out")
    done = subprocess.run(
        [REPO / "scripts/tao_deploy", tmp_path / "out/spec.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mIOU: " in done.stdout + done.stderr
