"""The device side on a clean Python 3.10 with NumPy and OpenCV alone, as on a board."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import config
from stages.foundation import files
from tests.conftest import REPO, run
from tests.support import graphs

FOLDERS = ["doctor", "engines", "inference", "media", "metrics"]
STAGES = [
    "stages.engine", "stages.verify", "stages.benchmark",
    "stages.commands.doctor", "stages.commands.engine", "stages.commands.predict",
]  # fmt: skip
"""Commands that run on a device. The modules that they import must run there too."""
ELSEWHERE = ["torch", "onnx", "omegaconf", "yaml", "hydra", "dvc"]
PACKAGES = ["numpy<2.3", "opencv-python-headless<5"]


def python_310() -> Iterator[Path]:
    """Interpreters that may be Python 3.10; pyenv's shims answer to the name and then fail."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob("versions/3.10.*/bin/python3.10"))
    yield from sorted((Path.home() / ".local/share/uv/python").glob("cpython-3.10*/bin/python3.10"))
    if found := shutil.which("python3.10"):
        yield Path(found)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of such an environment."""
    for base in python_310():
        if (
            run(str(base), "-c", "import sys; raise SystemExit(sys.version_info[:2] != (3, 10))", cwd=REPO).returncode
            == 0
        ):
            break
    else:
        pytest.skip("no Python 3.10 on PATH, in pyenv's or in uv's folder")
    folder = tmp_path_factory.mktemp("device") / "venv"
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    for command in (
        [uv, "venv", "--quiet", "--python", str(base), str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *PACKAGES],
    ):
        done = run(*command, cwd=REPO)
        assert done.returncode == 0, done.stderr
    return folder / "bin/python"


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters in JSON with all the targets of conf/target, as they are sent to a board."""
    out = tmp_path_factory.mktemp("params") / "params.json"
    targets = sorted(path.stem for path in (REPO / "conf/target").glob("*.yaml"))
    more = [f"+target@targets.{name}={name}" for name in targets if name not in ("cpu", "rtx", "gpu")]
    variants = "deploy.variants=[onnx,onnx_gather,cuda]"
    done = run("python", "-m", "stages.commands.params", "--out", str(out), "profile=sample", variants, *more, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert sorted(config.load(out).targets) == targets
    return out


def on_device(device: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO)}
    return subprocess.run([device, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_every_module_of_the_device_side_is_imported(device: Path, tmp_path: Path) -> None:
    found = [path for name in FOLDERS for path in (REPO / "stages" / name).rglob("*.py") if path.stem != "__init__"]
    modules = [*STAGES, *(".".join(path.relative_to(REPO).with_suffix("").parts) for path in found)]
    assert "stages.engines.cuda.tensorrt" in modules
    code = (
        f"import importlib.util, sys\nfor name in {ELSEWHERE}: assert importlib.util.find_spec(name) is None, name\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print('\\n'.join(sorted(name for name in sys.modules if name.startswith('stages'))))\n"
    )
    done = on_device(device, "-W", "error", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {*modules, "stages.config", "stages.foundation.files", "stages.inference.description"} <= set(
        done.stdout.split()
    )


def test_parameters_need_no_yaml_reader(device: Path, params: Path, tmp_path: Path) -> None:
    code = "from pathlib import Path; from stages import config; print(*config.load(Path('{}')).targets)"
    done = on_device(device, "-c", code.format(params), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"cpu", "orin_jp61", "thor"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orin_jp61", "target orin_jp61 needs the CPU architecture aarch64, found x86_64"),
        ("ada", "Python module tensorrt can't be imported (No module named 'tensorrt'); use the system's Python"),
        ("h100", "Python module tensorrt can't be imported (No module named 'tensorrt'); use the system's Python"),
        ("rtx", "TensorRT-RTX's libraries are missing; run `make env`"),
        ("cpu", "Python module openvino can't be imported"),
    ],
)
def test_the_engine_stage_says_what_is_missing(
    device: Path, params: Path, tmp_path: Path, name: str, message: str
) -> None:
    target = config.find_target(config.load(params), name)
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    done = on_device(
        device, "-m", "stages.engine", "--params", str(params), "--target", name, "--graph", str(graph),
        "--out", "engine", "--timing-cache", "timing.cache", "--metrics", "engine.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "engine").exists()


def test_the_guards_read_a_sidecar_there(device: Path, tmp_path: Path) -> None:
    """The engine of this environment is refused on the device for what it lacks, not for what it can't read."""
    from stages import engine

    target = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    engine.build(graph, tmp_path / "cpu", "cpu", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    assert files.read_json(tmp_path / "cpu/engine.json")["graph"]["precision"] == "fp32"
    code = (
        "from pathlib import Path; from stages import config; from stages.engines import manifest\n"
        "target = config.Target(builder=config.Builder.onnxruntime, builder_version='1.32')\n"
        "manifest.verified_engine(Path('cpu'), 'cpu', target)"
    )
    done = on_device(device, "-c", code, cwd=tmp_path)
    assert "Python module onnxruntime can't be imported" in done.stderr.splitlines()[-1]
