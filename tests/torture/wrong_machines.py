"""Engines of another GPU, driver, builder, graph or precision, hosts without a GPU, and other versions of NumPy.

Each engine that does not fit is refused in one line that names what was found, before any of its bytes is loaded.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.conftest import REPO
from tests.torture.ground import Ended, Ground, hashes, must, run
from tests.torture.table import Row, Rows

SECTION = "Wrong machines"
PREDICT = "python -m stages.commands.predict --source data/source/pictures/000.jpg --engine"
VERIFY = (
    "python -m stages.verify --target cpu --predictions data/evaluate --coco data/coco/val --out data/predict/verify "
    "--metrics data/predict/verify.json --engine data/engines/cpu"
)
NUMPY = {"NumPy 1": ("numpy==1.26.4", "opencv-python-headless==4.10.0.84"), "NumPy 2": ("numpy<2.3",)}


def rows(ground: Ground, moments: int, seed: int) -> Rows:
    """Return a function for each row by its name."""
    found: Rows = {f"wrong {name}": partial(_numpy, ground, name, packages) for name, packages in NUMPY.items()}
    tries = {"manifest": _changed, "bytes": _other_bytes, "gpu": _no_gpu, "target": _other_builds}
    return found | {f"wrong {name}": partial(one, ground) for name, one in tries.items()}


def _refused(row: Row, ended: Ended, words: Sequence[str], tried: str) -> None:
    lines = ended.said.strip().splitlines()
    faults = [f"{tried}: exit status {ended.status}"] if ended.status != 1 else []
    if len(lines) != 1:
        faults.append(f"{tried}: {len(lines)} lines: {ended.said.strip()[-200:]}")
    faults += [f"{tried}: does not say {word}: {lines[-1]}" for word in words if lines and word not in lines[-1]]
    row.add("refused in one line" if not faults else "not refused in one line", faults)


def _changed(ground: Ground) -> Row:
    """Write one key of engine.json as another machine would have it."""
    row = Row(SECTION, "engine.json of another machine", "predict", f"{PREDICT} data/engines/changed")
    changes = {
        "builder": "onnxruntime",
        "builder_version": "1.0.0",
        "precision": "fp16",
        "variant": "cuda",
        "architecture": "aarch64",
        "compute_capabilities": ["9.0"],
        "target": "orin_jp61",
        "device": "cuda",
        "cuda_major": 99,
    }
    with ground.copied("wrong changed") as workspace:
        for key, value in changes.items():
            changed = workspace / "data/engines/changed"
            shutil.rmtree(changed, ignore_errors=True)
            shutil.copytree(workspace / "data/engines/cpu", changed)
            content = json.loads((changed / "engine.json").read_text())
            content[key] = value
            (changed / "engine.json").write_text(json.dumps(content))
            # As the stage verify does, with the target of the parameters: predict takes it from engine.json.
            ended = run(VERIFY.replace("data/engines/cpu", "data/engines/changed"), workspace)
            if key in ("target", "device", "cuda_major") and not ended.status:
                row.add("no key that an engine of a CPU depends on", [])
            else:
                _refused(row, ended, [], key)
    row.command = VERIFY.replace("data/engines/cpu", "data/engines/changed")
    row.subject = "verify"
    return row


def _other_bytes(ground: Ground) -> Row:
    """Give the engine the bytes of another one, cut them, or take them away."""
    row = Row(SECTION, "engine of another graph, cut, changed or missing", "predict", f"{PREDICT} data/engines/cpu")

    def swap(folder: Path) -> None:
        shutil.copy(folder.parent / "gpu/gpu.cuda", folder / "cpu.blob")

    def cut(folder: Path) -> None:
        content = (folder / "cpu.blob").read_bytes()
        (folder / "cpu.blob").write_bytes(content[: len(content) // 2])

    def flip(folder: Path) -> None:
        content = bytearray((folder / "cpu.blob").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "cpu.blob").write_bytes(content)

    def lose(folder: Path) -> None:
        (folder / "cpu.blob").unlink()

    def graph(folder: Path) -> None:
        content = json.loads((folder / "engine.json").read_text())
        content["graph"] = []
        (folder / "engine.json").write_text(json.dumps(content))

    with ground.copied("wrong bytes") as workspace:
        for change in (swap, cut, flip, lose, graph):
            folder = workspace / "data/engines/cpu"
            shutil.rmtree(folder)
            shutil.copytree(ground.base / "data/engines/cpu", folder)
            change(folder)
            _refused(row, run(row.command, workspace), ["engine"], change.__name__)
    return row


def _no_gpu(ground: Ground) -> Row:
    """Run an engine of a GPU on a host without one. Where there is a GPU, it is hidden."""
    row = Row(SECTION, "no GPU", "predict", f"CUDA_VISIBLE_DEVICES= {PREDICT} data/engines/gpu")
    with ground.copied("wrong gpu") as workspace:
        ended = run(f"{PREDICT} data/engines/gpu", workspace, CUDA_VISIBLE_DEVICES="")
        _refused(row, ended, ["needs a GPU", "no NVIDIA GPU or no driver"], "gpu")
    return row


def _other_builds(ground: Ground) -> Row:
    """Build for targets that this host can't build for."""
    command = (
        "python -m stages.engine --graph data/onnx/cuda/fp16 --out data/predict/engine --metrics data/predict/m.json"
    )
    row = Row(
        SECTION,
        "target of another machine, graph of another precision",
        "engine",
        f"{command} --timing-cache .timing_cache/x --target ...",
    )
    with ground.copied("wrong build") as workspace:
        more = " ".join(f"+target@targets.{name}={name}" for name in ("orin_jp61", "ada", "h100"))
        more += " deploy.variants=[onnx,onnx_gather,cuda]"
        must(f"python -m stages.commands.params --profile=smoke --overrides='{more}'", workspace)
        for name in ("orin_jp61", "ada", "h100"):
            ended = run(f"{command} --timing-cache .timing_cache/x --target {name}", workspace)
            _refused(row, ended, [f"target {name} needs"], name)
        ended = run(f"{command} --timing-cache .timing_cache/x --target cpu", workspace)
        _refused(row, ended, ["target cpu needs a graph with precision fp32, found fp16"], "graph")
    return row


def _numpy(ground: Ground, name: str, packages: tuple[str, ...]) -> Row:
    """Verify the CPU's engine in an environment as on a board: NumPy, OpenCV and the runtime."""
    openvino = json.loads((ground.base / "data/engines/cpu/engine.json").read_text())["builder_version"]
    row = Row(SECTION, name, "verify", f"{VERIFY}  # {', '.join(packages)}")
    venv = ground.folder / f"venv {name}"
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    opencv = [] if len(packages) > 1 else ["opencv-python-headless<5"]
    numbers = [".".join(openvino.split("-")[0].split(".")[:3])]
    install = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin/python"), *packages, *opencv]
    try:
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)], check=True)
        subprocess.run([*install, f"openvino=={numbers[0]}"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        row.add(f"not run: {error}", [])
        return row
    with ground.copied(f"wrong {name}") as workspace:
        run("python -m stages.commands.params --out params.json", workspace)
        command = VERIFY.replace("python", f"'{venv}/bin/python'", 1)
        if (workspace / "params.json").exists():
            command += " --params params.json"
        ended = run(command, workspace)
        faults = [f"exit status {ended.status}: {ended.said.strip()[-300:]}"] if ended.status else []
        maps = {path.removeprefix("data/predict/verify"): digest
                for path, digest in hashes(workspace, "data/predict/verify").items()}  # fmt: skip
        there = {path.removeprefix("data/verify/cpu"): digest
                 for path, digest in hashes(ground.base, "data/verify/cpu").items()}  # fmt: skip
        if not ended.status and maps != there:
            faults.append(f"other maps: {[path for path in there if maps.get(path) != there[path]][:3]}")
        row.add("same maps", faults)
    return row
