"""The device side on a clean Python 3.10 with NumPy and OpenCV alone, as on a board."""

import ast
import subprocess
from pathlib import Path

import pytest

from stages import config
from stages.commands import kit
from stages.foundation import files
from tests.conftest import REPO, run
from tests.support import boards, graphs

FOLDERS = ["doctor", "engines", "inference", "media", "metrics"]
STAGES = [
    "stages.engine", "stages.verify", "stages.benchmark",
    "stages.commands.board", "stages.commands.doctor", "stages.commands.engine", "stages.commands.predict",
    "stages.commands.tune",
]  # fmt: skip
"""Commands that run on a device. The modules that they import must run there too."""
ELSEWHERE = ["torch", "onnx", "omegaconf", "yaml", "hydra", "dvc"]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of such an environment."""
    return boards.clean_python(tmp_path_factory.mktemp("device") / "venv")


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
    return boards.on(device, *arguments, cwd=cwd, PYTHONPATH=str(REPO))


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


ONLY_IN_A_WORKSPACE = {
    ("stages/benchmark.py", "stages.reference.tao_model"),  # with a checkpoint
    ("stages/doctor/project.py", "stages.remotes"),
    ("stages/doctor/project.py", "stages.sets"),
}


def test_a_kit_has_all_the_code_that_its_code_imports() -> None:
    """Also imports in functions, of which a test without that builder or GPU runs only some."""
    tops = [REPO / name for name in kit.CODE]
    inside = {p for top in tops for p in (top.rglob("*.py") if top.is_dir() else [top])}
    missing = set()
    for path in inside:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            for name in (name for name in names if name.startswith("stages.")):
                file = REPO / name.replace(".", "/")
                found = [file.with_suffix(".py"), file / "__init__.py"]
                if any(p.exists() for p in found) and not inside & {*found}:
                    missing.add((path.relative_to(REPO).as_posix(), name))
    strange = {
        (where, name)
        for where, name in missing
        if not any(name.startswith(n) and where == w for w, n in ONLY_IN_A_WORKSPACE)
    }
    assert strange == set()


@pytest.mark.parametrize("lacks", ["numpy", "cv2"])
def test_a_kit_says_which_package_a_machine_lacks(device: Path, tmp_path: Path, lacks: str) -> None:
    """A package that is there and can't be imported, such as OpenCV without libGL, is no traceback either."""
    (tmp_path / "kit_x").mkdir()
    (tmp_path / "kit_x/__main__.py").write_text(kit.MAIN.read_text())
    (tmp_path / "broken" / lacks).mkdir(parents=True)
    (tmp_path / "broken" / lacks / "__init__.py").write_text("raise ImportError('libGL.so.1: no such file')")
    done = boards.on(device, "kit_x", "verify", cwd=tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "can't be imported by" in line
    assert "libGL.so.1: no such file); install it: python3 -m pip install numpy opencv" in line


def test_a_kit_says_which_python_it_needs(tmp_path: Path) -> None:
    old = next(iter(sorted((boards.PYENV / "versions").glob("3.[6-9].*/bin/python3"))), None)
    if old is None:
        pytest.skip("no Python before 3.10 in pyenv's folder")
    (tmp_path / "kit_x").mkdir()
    (tmp_path / "kit_x/__main__.py").write_text(kit.MAIN.read_text())
    done = boards.on(old, "kit_x", "verify", cwd=tmp_path)
    assert (done.returncode, done.stderr.startswith("Python 3.10 or newer is needed, found 3.")) == (1, True)
    assert len(done.stderr.splitlines()) == 1
