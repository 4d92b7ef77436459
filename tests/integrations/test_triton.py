"""Models that `make triton` writes, in a real Triton server of PyPI, with Triton's own client and its configuration."""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from stages import config
from stages.commands import triton
from stages.engines import loading
from stages.foundation import command_line, files
from stages.inference.description import Description
from stages.inference.steps import Attributes, KernelCall, TensorSpec
from stages.media import segment_list
from tests.conftest import REPO
from tests.support import bright

FOLDER = REPO / "integrations/triton"
CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
PYTHON, ONNX, TENSORRT = triton.Backend
BATCH = 4
DEADLINE_S = 120


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Engines of ONNX Runtime by the size of their batches. Their graphs are beside them."""
    return {batch: bright.build(tmp_path_factory.mktemp("engine"), CPU, batch=batch) for batch in (1, BATCH)}


def lines(repository: Path, name: str) -> list[str]:
    return (repository / name / "config.pbtxt").read_text().splitlines()[1:]


@pytest.mark.parametrize("batch", [1, BATCH])
def test_an_engine_becomes_a_model(engines: dict[int, Path], tmp_path: Path, batch: int) -> None:
    repository = tmp_path / "models of ours"
    (repository / "theirs/1").mkdir(parents=True)
    assert triton.build(repository, engines[batch], PYTHON, "") == "vistas2engine_cpu"
    batching = [f"dynamic_batching {{ preferred_batch_size: [ {BATCH} ] }}"] if batch > 1 else []
    assert lines(repository, "vistas2engine_cpu") == [
        'name: "vistas2engine_cpu"',
        'backend: "python"',
        f"max_batch_size: {batch}",
        'input [ { name: "frame" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]',
        'output [ { name: "query_ids" data_type: TYPE_UINT8 dims: [ 48, 64 ] } ]',
        'output [ { name: "areas" data_type: TYPE_INT32 dims: [ 2 ] } ]',
        'output [ { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] } ]',
        'output [ { name: "category_ids" data_type: TYPE_INT32 dims: [ 2 ] } ]',
        'output [ { name: "segment_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] } ]',
        'output [ { name: "segments" data_type: TYPE_STRING dims: [ 1 ] } ]',
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
        *batching,
    ]
    version = repository / "vistas2engine_cpu/1"
    assert sorted(path.name for path in version.iterdir()) == ["code", "engine", "model.py"]
    for path in engines[batch].iterdir():
        assert (version / "engine" / path.name).read_bytes() == path.read_bytes()
    assert (version / "code/stages/engines/loading.py").is_file()
    assert not [path for path in version.rglob("*") if path.is_symlink() or path.suffix == ".pyc"]
    assert sorted(path.name for path in repository.iterdir()) == ["theirs", "vistas2engine_cpu"]


def test_a_graph_becomes_a_model_of_onnx_runtime(engines: dict[int, Path], tmp_path: Path) -> None:
    """ONNX Runtime itself says what the graph takes and gives."""
    name = triton.build(tmp_path, engines[BATCH].parent / "graph", ONNX, "")
    assert name == "vistas2engine_onnx_fp32"
    session = onnxruntime.InferenceSession(tmp_path / name / "1/model.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FP32"}
    wanted = [
        f'{key} [ {{ name: "{each.name}" data_type: TYPE_{types[each.type]} dims: {str(each.shape)[0]} '
        f"{str(each.shape)[1:-1]} ] }} ]"
        for key, found in (("input", session.get_inputs()), ("output", session.get_outputs()))
        for each in found
    ]
    head = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', "max_batch_size: 0"]
    assert lines(tmp_path, name) == [*head, *wanted, "instance_group [ { kind: KIND_AUTO count: 1 } ]"]
    assert wanted[0] == 'input [ { name: "frame" data_type: TYPE_UINT8 dims: [ 4, 48, 64, 3 ] } ]'


@pytest.fixture
def plan(engines: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an engine of TensorRT in a workspace with its graph. Its bytes are none of TensorRT's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(engines[1].parent / "graph", tmp_path / "data/onnx/onnx/fp32")
    folder = tmp_path / "data/engines/h100"
    shutil.copytree(engines[1], folder)
    (folder / "cpu.onnx").rename(folder / "h100.engine")
    about = files.read_json(folder / "engine.json")
    about |= {"target": "h100", "builder": "tensorrt", "builder_version": "11.4.0.106", "device": "cuda"}
    about |= {"compute_capabilities": ["9.0"]}
    about["engine"]["file"] = "h100.engine"
    files.write_json(folder / "engine.json", about)
    return folder


def test_an_engine_of_tensorrt_becomes_a_plan(plan: Path, tmp_path: Path) -> None:
    name = triton.build(tmp_path / "models", plan, TENSORRT, "streets")
    assert (tmp_path / "models/streets/1/model.plan").read_bytes() == (plan / "h100.engine").read_bytes()
    found = lines(tmp_path / "models", name)
    assert found[:3] == ['name: "streets"', 'platform: "tensorrt_plan"', "max_batch_size: 0"]
    assert found[3] == 'input [ { name: "frame" data_type: TYPE_UINT8 dims: [ 1, 48, 64, 3 ] } ]'
    assert [line.split('"')[1] for line in found[4:8]] == ["query_ids", "areas", "scores", "category_ids"]
    assert found[8:] == ["instance_group [ { kind: KIND_GPU count: 1 } ]"]
    triton.build(tmp_path / "models", plan, PYTHON, "")
    found = lines(tmp_path / "models", "vistas2engine_h100")
    assert 'output [ { name: "query_ids" data_type: TYPE_UINT8 dims: [ 48, 64 ] } ]' in found
    assert "instance_group [ { kind: KIND_GPU count: 1 gpus: [ 0 ] } ]" in found
    (tmp_path / "data/onnx/onnx/fp32/graph.onnx").write_bytes(b"another")
    with pytest.raises(RuntimeError, match=r"graph\.onnx is not the graph that the engine was built from"):
        triton.build(tmp_path / "models", plan, TENSORRT, "")


def test_outputs_of_our_kernels_are_what_no_kernel_reads() -> None:
    specs = {
        "frame": TensorSpec((2, 8, 8, 3), "uint8"),
        "logits": TensorSpec((2, 5, 3), "float16"),
        "areas": TensorSpec((2, 5), "int32"),
        "query_ids": TensorSpec((2, 8, 8), "uint8"),
    }
    network = KernelCall("Network", Attributes(), ("frame",), ("logits",), {k: specs[k] for k in ("frame", "logits")})
    merge = KernelCall("Merge", Attributes(), ("logits",), ("query_ids", "areas"), specs)
    about = Description({}, "cuda", [], steps=[network, merge])
    found = triton.kernel_outputs(about)
    assert found == {"query_ids": specs["query_ids"], "areas": specs["areas"]}
    text = triton.python_config("m", 2, found, "KIND_GPU")
    assert 'output [ { name: "query_ids" data_type: TYPE_UINT8 dims: [ 8, 8 ] } ]' in text
    assert 'output [ { name: "areas" data_type: TYPE_INT32 dims: [ 5 ] } ]' in text


def test_a_shape_that_is_not_fixed_is_refused(tmp_path: Path) -> None:
    model = bright.bright_is_car()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(ValueError, match="frame has no fixed shape"):
        triton.onnx_tensors(tmp_path / "graph.onnx")


@pytest.mark.parametrize(
    ("backend", "which", "name", "message"),
    [
        (ONNX, "engine", "", "has no graph.json, expected the folder of a graph"),
        (PYTHON, "graph", "", "engine.json not found; name the folder of an engine"),
        (TENSORRT, "engine", "", "an engine of onnxruntime, expected one of tensorrt"),
        (PYTHON, "engine", "a/b", "NAME=a/b: expected a name of a-z"),
        (PYTHON, "engine", "..", "NAME=..: expected a name of a-z"),
        (PYTHON, "damaged", "", "cpu.onnx is not the engine that engine.json beside it describes"),
        (ONNX, "kernels", "", "a graph of the variant cuda, expected onnx or onnx_gather"),
    ],
)
def test_what_is_refused_leaves_nothing(
    engines: dict[int, Path], tmp_path: Path, backend: triton.Backend, which: str, name: str, message: str
) -> None:
    shutil.copytree(engines[1], tmp_path / "engine")
    shutil.copytree(engines[1], tmp_path / "damaged")
    (tmp_path / "damaged/cpu.onnx").write_bytes(b"another")
    for folder in ("graph", "kernels"):
        shutil.copytree(engines[1].parent / "graph", tmp_path / folder)
    about = files.read_json(tmp_path / "kernels/graph.json")
    files.write_json(tmp_path / "kernels/graph.json", about | {"variant": "cuda"})
    with pytest.raises((ValueError, RuntimeError)) as raised:
        triton.build(tmp_path / "models", tmp_path / which, backend, name)
    assert message in command_line.message(raised.value)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())


def test_a_model_is_replaced_only_if_all_of_it_is_ours(engines: dict[int, Path], tmp_path: Path) -> None:
    triton.build(tmp_path, engines[1], PYTHON, "streets")
    # What Triton's Python leaves.
    (tmp_path / "streets/1/__pycache__").mkdir()
    (tmp_path / "streets/1/__pycache__/model.cpython-312.pyc").write_bytes(b"bytecode")
    triton.build(tmp_path, engines[BATCH], PYTHON, "streets")
    assert f"max_batch_size: {BATCH}" in lines(tmp_path, "streets")
    (tmp_path / "streets/2").mkdir()
    (tmp_path / "streets/2/model.py").write_text("mine")
    with pytest.raises(ValueError, match=r"streets has 2/model\.py, which this command did not write"):
        triton.build(tmp_path, engines[1], PYTHON, "streets")
    assert (tmp_path / "streets/2/model.py").read_text() == "mine"
    assert f"max_batch_size: {BATCH}" in lines(tmp_path, "streets")


def test_the_model_is_written_for_the_pythons_of_tritons_containers() -> None:
    ast.parse((FOLDER / "model.py").read_text(), feature_version=(3, 10))


def test_a_repository_that_is_missing_is_one_line(tmp_path: Path) -> None:
    """It is seen before anything is installed."""
    variables = os.environ | {"MODEL_REPOSITORY": str(tmp_path / "none"), "TRITON_ENVIRONMENT": str(tmp_path / "env")}
    done = subprocess.run([REPO / "scripts/triton"], env=variables, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("error: MODEL_REPOSITORY: ")) == (1, True)
    assert not (tmp_path / "env").exists()


# A real server.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a server in an environment of its own, in a folder with a special name."""
    folder = tmp_path_factory.mktemp("triton's environment") / "venv"
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "TRITON_ENVIRONMENT": str(folder)
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, engines: dict[int, Path]) -> Path:
    found = tmp_path_factory.mktemp("models") / "a b'c"
    triton.build(found, engines[1], PYTHON, "one")
    triton.build(found, engines[BATCH], PYTHON, "four")
    return found


def start(repository: Path, environment: dict[str, str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on a free port; return it and the port. A first start installs it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [REPO / "scripts/triton", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    variables = environment | {"MODEL_REPOSITORY": str(repository)}
    with log.open("wb") as out:
        return subprocess.Popen(command, env=variables, stdout=out, stderr=subprocess.STDOUT), port


def ready(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status == 200
    except (OSError, urllib.error.HTTPError):
        return False


@pytest.fixture(scope="module")
def port(repository: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a running server, which must end cleanly after all the tests that use it."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    server, port = start(repository, environment, log)
    end = time.monotonic() + 5 * DEADLINE_S
    while not ready(port):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    yield port
    server.send_signal(signal.SIGTERM)
    assert server.wait(DEADLINE_S) == 0, log.read_text()
    (links,) = {*re.findall(r"/tmp/vistas2engine_triton\.\w+", log.read_text())}
    assert not Path(links).exists()


@pytest.fixture
def ask(port: int, environment: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Send requests by tritonclient, in the server's environment; see ASK."""

    def done(model: str, requests: list[np.ndarray], outputs: list[str]) -> dict[str, Any]:
        np.savez(tmp_path / "requests.npz", *requests)
        python = Path(environment["TRITON_ENVIRONMENT"]) / "bin/python"
        command = [python, "-c", ASK, f"127.0.0.1:{port}", model, tmp_path, *outputs]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert ran.returncode == 0, ran.stderr
        answers = np.load(tmp_path / "answers.npz", allow_pickle=True)
        return {name: answers[name] for name in answers.files} | json.loads((tmp_path / "rest.json").read_text())

    return done


ASK = """
import json, sys, time
from pathlib import Path
import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException
url, model, folder, *outputs = sys.argv[1:]
requests = np.load(Path(folder) / "requests.npz")
with http.InferenceServerClient(url, concurrency=16) as client:
    def counts():
        found = client.get_inference_statistics(model)["model_stats"][0]
        return int(found.get("inference_count", 0)), int(found.get("execution_count", 0))
    before = counts()
    waiting = []
    for name in requests.files:
        frame = http.InferInput("frame", requests[name].shape, "UINT8")
        frame.set_data_from_numpy(requests[name])
        wanted = [http.InferRequestedOutput(output) for output in outputs]
        waiting.append(client.async_infer(model, [frame], outputs=wanted))
    answers, errors = {}, []
    for number, each in enumerate(waiting):
        try:
            answer = each.get_result()
        except InferenceServerException as error:
            errors.append(str(error))
            continue
        answers |= {f"{output}_{number}": answer.as_numpy(output) for output in outputs}
    # Triton counts an answer after it is sent.
    pictures = sum(len(answers[f"{outputs[0]}_{n}"]) for n in range(len(waiting)) if f"{outputs[0]}_{n}" in answers)
    end = time.monotonic() + 60
    while counts()[0] - before[0] < pictures and time.monotonic() < end:
        time.sleep(0.1)
    done = [now - then for now, then in zip(counts(), before)]
    rest = {"errors": errors, "counts": done, "metadata": client.get_model_metadata(model)}
    (Path(folder) / "rest.json").write_text(json.dumps(rest))
np.savez(Path(folder) / "answers.npz", **answers)
"""


def picture(height: int, width: int, bright_columns: int) -> np.ndarray:
    rgb = np.full((height, width, 3), 20, np.uint8)
    rgb[:, :bright_columns] = 230
    return rgb


PICTURES = [picture(*bright.SIZE, 20), picture(96, 128, 30), picture(50, 41, 17), picture(7, 90, 60)]


@pytest.mark.slow
def test_answers_are_those_of_our_runtime(engines: dict[int, Path], ask: Callable[..., dict[str, Any]]) -> None:
    """Pictures of the frame's size and of others, larger, smaller and of another shape."""
    predictor = loading.load(engines[1], "cpu", CPU)
    categories = {category["id"]: category for category in bright.CATEGORIES}
    names = ["query_ids", "areas", "scores", "category_ids", "segment_ids", "segments"]
    found = ask("one", [rgb[None] for rgb in PICTURES], names)
    assert found["errors"] == []
    for number, rgb in enumerate(PICTURES):
        (segments,) = predictor.segments([rgb])
        ids = found[f"segment_ids_{number}"]
        assert (ids.dtype, ids.tobytes()) == (segments.ids.dtype, segments.ids.tobytes())
        assert json.loads(found[f"segments_{number}"][0, 0]) == segment_list.rows(segments, categories)
        outputs = predictor.run(predictor.fit([rgb])[0])
        for name, array in outputs.items():
            assert found[f"{name}_{number}"].dtype == array.dtype
            assert np.array_equal(found[f"{name}_{number}"], array)
    assert found["metadata"]["inputs"] == [{"name": "frame", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [output["name"] for output in found["metadata"]["outputs"]] == names


@pytest.mark.slow
def test_requests_share_batches(engines: dict[int, Path], ask: Callable[..., dict[str, Any]]) -> None:
    predictor = loading.load(engines[BATCH], "cpu", CPU)
    shown = [PICTURES[number % 2] for number in range(40)]
    found = ask("four", [rgb[None] for rgb in shown], ["segment_ids"])
    assert found["errors"] == []
    for number, rgb in enumerate(shown):
        assert np.array_equal(found[f"segment_ids_{number}"][0], predictor.segments([rgb])[0].ids)
    answered, executions = found["counts"]
    assert answered == 40
    assert executions < 40
    three = np.stack([picture(*bright.SIZE, columns) for columns in (10, 20, 30)])
    (ids,) = ask("four", [three], ["segment_ids"])["segment_ids_0"][None]
    assert [int((each == 1).sum()) for each in ids] == [48 * 10, 48 * 20, 48 * 30]


@pytest.mark.slow
def test_what_a_model_can_not_take_is_one_error(ask: Callable[..., dict[str, Any]]) -> None:
    five = np.zeros((BATCH + 1, *bright.SIZE, 3), np.uint8)
    grey = np.zeros((1, *bright.SIZE, 1), np.uint8)
    found = ask("four", [five, grey, np.zeros((1, 0, 5, 3), np.uint8), PICTURES[0][None]], ["segment_ids"])
    assert len(found["errors"]) == 3
    assert "batch-size must be <= 4" in found["errors"][0]
    assert "unexpected shape for input 'frame'" in found["errors"][1]
    assert not any("Traceback" in error for error in found["errors"])
    assert found["segment_ids_3"].shape == (1, *bright.SIZE)


def client(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    python = Path(environment["TRITON_ENVIRONMENT"]) / "bin/python"
    command = [python, FOLDER / "client.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.slow
def test_the_client_of_the_docs(
    engines: dict[int, Path], port: int, environment: dict[str, str], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), PICTURES[1][..., ::-1])
    url = f"127.0.0.1:{port}"
    done = client(environment, "--model=one", "--url", url, "--out", tmp_path / "maps", tmp_path / "street.png")
    assert done.returncode == 0, done.stderr
    assert "street.png: 2 segments in " in done.stdout
    assert done.stdout.endswith(" ms: nature--sky, object--car\n")
    (segments,) = loading.load(engines[1], "cpu", CPU).segments([PICTURES[1]])
    assert np.array_equal(cv2.imread(str(tmp_path / "maps/street.png.png"), cv2.IMREAD_UNCHANGED), segments.ids)
    car, _ = json.loads((tmp_path / "maps/street.png.json").read_text())
    assert car["bbox"] == [0, 0, 30, 96]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for arguments, message in (
        (["--model=two", "--url", url, tmp_path / "street.png"], "unknown model: 'two'"),
        (["--model=one", "--url", "127.0.0.1:1", tmp_path / "street.png"], "Connection refused"),
        (["--model=one", "--url", url, tmp_path / "broken.jpg"], "can't be read as a picture"),
        (["--model=one", "--url", url, tmp_path / "none.jpg"], "No such file"),
    ):
        done = client(environment, *arguments)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith("error: ")) == (1, True)
        assert message in line


@pytest.mark.slow
def test_a_served_model_is_written_again(repository: Path, engines: dict[int, Path], port: int) -> None:
    """The bytecode that Triton's Python wrote is no file of others."""
    assert list((repository / "one/1").rglob("*.pyc")) == list((repository / "one/1/__pycache__").glob("model.*.pyc"))
    triton.build(repository, engines[1], PYTHON, "one")


PARSE = """
import sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
found = text_format.Parse(Path(sys.argv[1]).read_text(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(found))
"""


@pytest.mark.slow
def test_tritons_own_reader_takes_the_configurations(
    repository: Path, engines: dict[int, Path], plan: Path, port: int, environment: dict[str, str], tmp_path: Path
) -> None:
    triton.build(tmp_path / "models", engines[BATCH].parent / "graph", ONNX, "graph")
    triton.build(tmp_path / "models", plan, TENSORRT, "plan")
    triton.build(tmp_path / "models", plan, PYTHON, "gpu")
    found = {}
    for path in (repository / "four", *(tmp_path / "models" / name for name in ("graph", "plan", "gpu"))):
        python = Path(environment["TRITON_ENVIRONMENT"]) / "bin/python"
        command = [python, "-c", PARSE, path / "config.pbtxt"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        found[path.name] = json.loads(ran.stdout)
    four, graph, plan_model, gpu = (found[name] for name in ("four", "graph", "plan", "gpu"))
    assert (four["backend"], four["maxBatchSize"]) == ("python", BATCH)
    assert four["dynamicBatching"] == {"preferredBatchSize": [BATCH]}
    assert four["instanceGroup"] == [{"kind": "KIND_CPU", "count": 1}]
    assert four["output"][0] == {"name": "query_ids", "dataType": "TYPE_UINT8", "dims": ["48", "64"]}
    assert (graph["platform"], graph.get("maxBatchSize", 0)) == ("onnxruntime_onnx", 0)
    assert graph["input"] == [{"name": "frame", "dataType": "TYPE_UINT8", "dims": ["4", "48", "64", "3"]}]
    # KIND_AUTO is the first value of its enumeration, which JSON leaves out.
    assert graph["instanceGroup"] == [{"count": 1}]
    assert plan_model["platform"] == "tensorrt_plan"
    assert plan_model["instanceGroup"] == [{"kind": "KIND_GPU", "count": 1}]
    assert gpu["instanceGroup"] == [{"kind": "KIND_GPU", "count": 1, "gpus": [0]}]
    assert "dynamicBatching" not in gpu


@pytest.mark.slow
def test_a_server_without_gpu_and_other_backends_lacks_nothing_else(
    engines: dict[int, Path], plan: Path, port: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """It checks a model's configuration before it looks for the backend."""
    for name, which, backend in (("graph", engines[1].parent / "graph", ONNX), ("plan", plan, TENSORRT)):
        triton.build(tmp_path / "models", which, backend, name)
    triton.build(tmp_path / "models", plan, PYTHON, "gpu")
    server, _ = start(tmp_path / "models", environment, tmp_path / "log")
    try:
        assert server.wait(DEADLINE_S) != 0
    finally:
        server.terminate()
        server.wait()
    said = {
        name: re.findall(
            rf"failed to load '{name}' version 1: Invalid argument: (.*)\"", (tmp_path / "log").read_text()
        )
        for name in ("graph", "plan", "gpu")
    }
    assert ["unable to find backend library for backend 'onnxruntime'" in line for line in said["graph"]] == [True]
    assert ["unable to find backend library for backend 'tensorrt'" in line for line in said["plan"]] == [True]
    assert ["unsupported gpu id 0. GPUs with at least" in line for line in said["gpu"]] == [True]


@pytest.mark.slow
def test_a_backend_that_reads_arrays_as_empty_is_refused(
    repository: Path, port: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """The backend of Triton 2.51 gives empty answers with NumPy 2, and says nothing."""
    newer = tmp_path / "newer"
    shutil.copytree(environment["TRITON_ENVIRONMENT"], newer, symlinks=True, copy_function=os.link)
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    subprocess.run([uv, "pip", "install", "--quiet", "--python", newer / "bin/python", "numpy==2.2.6"], check=True)
    log = tmp_path / "log"
    server, _ = start(repository, environment | {"TRITON_ENVIRONMENT": str(newer)}, log)
    try:
        assert server.wait(DEADLINE_S) != 0
    finally:
        server.terminate()
        server.wait()
    wanted = "can't read arrays of NumPy 2.2.6, and answers would be empty; install numpy<2"
    assert wanted in log.read_text()
