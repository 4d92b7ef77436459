"""The C++ library against Python's runtime: the same files refused, the same calls of the driver, the same bytes."""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from stages import config, engine
from stages.engines import interface, manifest
from stages.engines.cuda import bundle, gpu
from stages.foundation import files
from stages.inference import description, segments
from stages.inference.description import Description
from stages.inference.steps import KernelCall
from stages.media import segment_list
from stages.onnx_graph import artifact
from tests.conftest import REPO, must
from tests.engines.test_engines import needs_no_gpu
from tests.engines.test_kernels import network, spoil
from tests.support import aarch64, cpp, fuzz
from tests.support.cpp import Build

NO_GPU, FILE, CUDA = 3, 2, 4
"""Statuses of the C API."""
TEARDOWN = re.compile("cu(MemFree|StreamDestroy|EventDestroy|ModuleUnload|Graph(Exec)?Destroy)|live")
FRAMES = 5


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """What `make cpp` builds, with the client of the tests."""
    cpp.require_tools("cmake", "gcc", "g++", "make")
    folder = tmp_path_factory.mktemp("a build") / "cpp"
    strict = f"-DCMAKE_CXX_FLAGS='{' '.join(cpp.STRICT)}'"
    must("make", "cpp", f"OUT={folder}", f"ARGS={strict}", cwd=REPO)
    return cpp.finish(folder)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Built with AddressSanitizer, which finds leaks too, and UndefinedBehaviorSanitizer."""
    return cpp.build(tmp_path_factory.mktemp("checked"), "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def graph(folder: Path) -> Path:
    """A graph of our kernels whose map has the frame's size, 12 x 100."""
    model = network()
    (size,) = [a for a in model.graph.node[-1].attribute if a.name == "frame_size"]
    size.ints[:] = [12, 100]
    for axis, length in zip(model.graph.output[0].type.tensor_type.shape.dim, (1, 12, 100), strict=True):
        axis.dim_value = length
    folder.mkdir()
    artifact.save(model, folder, Description(cpp.deploy("panoptic", 1, 12, 100), "cuda", cpp.CATEGORIES))
    return folder


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine of real kernels, compiled by NVRTC for 8.6 and 9.0 and as PTX."""
    folder = tmp_path_factory.mktemp("a kernel's")
    engine.build(
        graph(folder / "graph"), folder / "gpu", "gpu", cpp.TARGET, folder / "cache", folder / "metrics.json"
    )  # fmt: skip
    cpp.parameters(folder / "gpu")
    return folder / "gpu"


def frames_file(path: Path, engine_folder: Path, count: int = FRAMES) -> Path:
    (call, *_) = [step for step in described(engine_folder) if isinstance(step, KernelCall)]
    shape = (count, *call.tensors["frame"].shape)
    np.random.default_rng(7).integers(0, 256, shape, np.uint8).tofile(path)
    return path


def described(folder: Path) -> list[Any]:
    content: Any = files.read_json(folder / manifest.NAME)
    return description.parse(content["graph"]).steps


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("host", ["9.0 13000", "8.9 13010", "12.0 13000"])
def test_the_driver_gets_the_calls_that_pythons_runtime_makes(
    released: Build, kernels: Path, tmp_path: Path, in_flight: int, host: str
) -> None:
    """Machine code with early launches, machine code of an older GPU without, and PTX."""
    frames = frames_file(tmp_path / "frames", kernels)
    wanted = cpp.by_python(released, tmp_path / "py", kernels, in_flight, frames, tmp_path / "py.out", CUDA_GPU=host)
    done, found = released.recorded(
        "client", "run", kernels, in_flight, frames, tmp_path / "cpp.out", record=tmp_path / "cpp", engine=kernels,
        CUDA_GPU=host,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert found[-1] == "live 0"
    calls, expected = ([line for line in lines if not TEARDOWN.match(line)] for lines in (found, wanted))
    # At its end the library waits for its three streams.
    assert calls[: len(expected)] == expected
    assert [line.split()[0] for line in calls[len(expected) :]] == ["cuStreamSynchronize"] * 3
    launches = {line.split()[0] for line in calls if line.startswith("cuLaunch")}
    assert launches == ({"cuLaunchKernel"} if host.startswith("8") else {"cuLaunchKernel", "cuLaunchKernelEx"})
    assert sum(line.startswith("cuGraphLaunch") for line in calls) == FRAMES
    # The invented arithmetic of the recorder depends on frame, constants, launches and waits.
    answer = (tmp_path / "cpp.out").read_bytes()
    assert answer == (tmp_path / "py.out").read_bytes()
    assert len({answer[i * len(answer) // FRAMES : (i + 1) * len(answer) // FRAMES] for i in range(FRAMES)}) == FRAMES


def test_answers_do_not_depend_on_the_number_of_batches_in_flight(
    checked: Build, kernels: Path, tmp_path: Path
) -> None:
    frames = frames_file(tmp_path / "frames", kernels)
    for in_flight in (1, 2, 16):
        out = tmp_path / f"out{in_flight}"
        done, _ = checked.recorded(
            "client", "run", kernels, in_flight, frames, out, record=tmp_path / "calls", engine=kernels
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out1").read_bytes() == (tmp_path / "out2").read_bytes() == (tmp_path / "out16").read_bytes()


def test_an_engine_describes_itself(checked: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "an engine", batch=2)
    content: Any = files.read_json(folder / manifest.NAME)
    for ascii_only in (True, False):
        (folder / manifest.NAME).write_text(json.dumps(content, ensure_ascii=ascii_only))
        done, _ = checked.recorded(
            "client", "open", folder, 3, record=tmp_path / "calls", engine=folder, CUDA_GPU="8.9 13000"
        )
        sha256, size = files.sha256(folder / "gpu.cuda"), 2 * 33 * 43
        assert done.stdout.split("\n")[0] == f"0 2 33 43 {size * 3} 3 7 {sha256} 8.9 8.6 no GPU"
        assert done.stdout.split("\n")[1:5] == [
            f"query_ids uint8 {size} 2 33 43", "areas int32 56 2 7", "category_ids int32 56 2 7",
            "scores float32 56 2 7",
        ]  # fmt: skip
        assert f"1 1 1 2 255 {cpp.CATEGORIES[0]['name']}" in done.stdout
        assert "2 0 0 0 0 class 2\n" in done.stdout
        assert done.returncode == 0


def outputs(mode: str, batch: int, size: tuple[int, int], queries: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of a graph as it may give them."""
    rng, found = np.random.default_rng(seed), {}
    for name, spec in cpp.specs(mode, batch, *size, queries).items():
        most = {"query_ids": queries, "areas": 2, "category_ids": 11, "class_ids": 11, "mask_bits": 255}.get(name, 0)
        if name == "scores":
            found[name] = rng.choice([0.1, 0.4, 0.41, 0.7, 0.77777, 1, np.nan], spec.shape).astype(np.float32)
        else:
            low = 1 if name in ("category_ids", "class_ids") else 0
            found[name] = rng.integers(low, most, spec.shape, spec.numpy_dtype, endpoint=True)
    if mode == "panoptic":
        found["query_ids"][rng.random(found["query_ids"].shape) < 0.3] = segments.VOID_QUERY
    return found


SEGMENT = np.dtype([("id", "i4"), ("category_id", "i4"), ("score", "f4"), ("area_px", "u4"), ("bbox", "u4", 4)])


@pytest.mark.parametrize("mode", cpp.OUTPUTS)
@pytest.mark.parametrize(("batch", "size", "queries"), [(1, (33, 43), 7), (2, (40, 64), 255), (1, (32, 32), 1)])
def test_maps_are_decoded_as_python_decodes_them(
    checked: Build, tmp_path: Path, mode: str, batch: int, size: tuple[int, int], queries: int
) -> None:
    folder = cpp.made(tmp_path / "engine", mode, batch, size, queries)
    content: Any = files.read_json(folder / manifest.NAME)
    about = description.parse(content["graph"])
    categories = {category["id"]: category for category in about.categories}
    for seed in range(4):
        raw = outputs(mode, batch, size, queries, seed)
        (tmp_path / "raw").write_bytes(b"".join(array.tobytes() for array in raw.values()))
        done, _ = checked.recorded(
            "client", "decode", folder, tmp_path / "raw", tmp_path / "out", record=tmp_path / "calls", engine=folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        out, place = (tmp_path / "out").read_bytes(), 0
        for frame in range(batch):
            wanted = segments.decode(raw, frame, about.config, about.num_things)
            ids = np.frombuffer(out, np.int32, size[0] * size[1], place).reshape(size)
            np.testing.assert_array_equal(ids, wanted.ids)
            place += ids.nbytes
            count = int(np.frombuffer(out, np.uint32, 1, place)[0])
            found = np.frombuffer(out, SEGMENT, count, place + 4)
            place += 4 + found.nbytes
            rows = segment_list.rows(wanted, categories)
            assert [(row["id"], row["category_id"], row["area_px"], row["bbox"]) for row in rows] == [
                (one["id"], one["category_id"], one["area_px"], one["bbox"].tolist()) for one in found
            ]
            expected = [wanted.scores.get(row["id"], -1) for row in rows]
            np.testing.assert_array_equal(found["score"], np.array(expected, np.float32))
        assert place == len(out)


@pytest.mark.parametrize(("mode", "batch"), [("panoptic", 1), ("semantic", 2), ("instance", 2)])
def test_the_example_writes_the_maps_and_lines_of_pythons_predictor(
    checked: Build, tmp_path: Path, mode: str, batch: int
) -> None:
    size = (33, 43)
    folder = cpp.made(tmp_path / "engine", mode, batch, size)
    (tmp_path / "answers").mkdir()
    for number, array in enumerate(outputs(mode, batch, size, 7, 1).values()):
        (tmp_path / f"answers/answer.{number + 2}").write_bytes(np.nan_to_num(array, nan=0.5).tobytes())
    answers = str(tmp_path / "answers")
    pictures = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    (tmp_path / "frames").write_bytes(pictures.tobytes())
    cpp.by_python(
        checked, tmp_path / "py", folder, 1, tmp_path / "frames", tmp_path / "maps", tmp_path / "lines",
        CUDA_ANSWERS=answers,
    )  # fmt: skip
    # Comments are allowed, and numbers may stand in lines of their own.
    header = b"P6 # of a camera\n43\n# height\n 33\t255\n"
    (tmp_path / "in.ppm").write_bytes(b"".join(header + picture.tobytes() for picture in pictures))
    (tmp_path / "out").mkdir()
    done, _ = checked.recorded(
        "segment",
        folder,
        tmp_path / "in.ppm",
        tmp_path / "out",
        record=tmp_path / "cpp",
        engine=folder,
        CUDA_ANSWERS=answers,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"3 pictures in {tmp_path / 'out'}\n"
    maps = np.fromfile(tmp_path / "maps", ">u2").reshape(3, *size)
    lines = [json.loads(line) for line in (tmp_path / "out/segments.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [line["segments"] for line in lines] == wanted
    assert wanted[0]
    for number, (line, ids) in enumerate(zip(lines, maps, strict=True)):
        name = f"{number:06}"
        assert (line["picture"], line["height_px"], line["width_px"]) == (name, *size)
        assert (tmp_path / f"out/{name}.ids.pgm").read_bytes() == b"P5\n43 33\n65535\n" + ids.tobytes()
        classes = np.zeros(65536, np.uint8)
        for row in line["segments"]:
            classes[row["id"]] = row["category_id"]
        assert (tmp_path / f"out/{name}.classes.pgm").read_bytes() == b"P5\n43 33\n255\n" + classes[ids].tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no picture in the input"),
        (b"\x89PNG", "pictures must be binary PPMs"),
        (b"P6 44 33 255\n", "this engine takes pictures of 43 x 33 with values to 255, found 44 x 33 and 255; scale"),
        (b"P6 43 33 65535\n", "found 43 x 33 and 65535"),
        (b"P6 43 33 255\n" + b"x" * 99, "a picture is cut short"),
        (b"P6 43 # no end", "a picture's header is cut short"),
        (b"P6 99999999999999999999", "a picture's header is cut short"),
    ],
)
def test_a_picture_of_another_form_is_refused(checked: Build, tmp_path: Path, content: bytes, message: str) -> None:
    folder = cpp.made(tmp_path / "engine")
    (tmp_path / "in.ppm").write_bytes(content)
    done, _ = checked.recorded(
        "segment", folder, tmp_path / "in.ppm", tmp_path, record=tmp_path / "calls", engine=folder
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# What an engine's file may be instead of itself: a change of its header, and the words of both readers.
at_step = partial(spoil, step=0)
"""A change of the step, of its plan for 8.6, of the plan's first launch, or of the header."""


CONSTANT = {"shape": [4], "dtype": "float16", "offset": 0}
HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda header: header["steps"],
    "one key more": lambda header: {**header, "more": 1},
    "no version": at_step("cuda", "new"),
    "no capabilities": at_step("compute_capabilities", []),
    "no steps": at_step("steps", []),
    "one step more": lambda header: {**header, "steps": [*header["steps"], 7]},
    "another step": at_step("steps", [{"part": "part_0.engine"}]),
    "another operator": at_step("operator", "Resize"),
    "no plans": at_step("plans", {}),
    "code elsewhere": at_step("code", "../nowhere"),
    "code of a number": at_step("code", 3),
    "no tensors": at_step("tensors", {}),
    "an input of a number": at_step("inputs", ["frame", 3]),
    "no launches": at_step("launches", []),
    "a workspace below 0": at_step("workspace_bytes", [-1, 5]),
    "a workspace of 2^63": at_step("workspace_bytes", [2**63, 300]),
    "a function with a space": at_step("function", "a b"),
    "a function beyond ASCII": at_step("function", "é"),
    "a grid too high": at_step("grid", [1, 70000, 1]),
    "a grid of 0": at_step("grid", [0, 1, 1]),
    "a grid of 2^32": at_step("grid", [2**32 + 1, 1, 1]),
    "a grid of fractions": at_step("grid", [1.0, 1, 1]),
    "a block too large": at_step("block", [64, 64, 1]),
    "a block of true": at_step("block", [True, 1, 1]),
    "a block of two": at_step("block", [1, 1]),
    "an input too many": at_step("arguments", ["i0", "i9", "o0"]),
    "an input with a 0": at_step("arguments", ["i0", "i01", "o0"]),
    "an input of 2^64": at_step("arguments", ["i18446744073709551616"]),
    "much shared memory": at_step("shared_bytes", 1 << 20),
    "an offset not aligned": at_step("constants", {"w": {**CONSTANT, "offset": 7}}),
    "an offset beyond": at_step("constants", {"w": {**CONSTANT, "offset": 256 * 99}}),
    "an offset below 0": at_step("constants", {"w": {**CONSTANT, "offset": -256}}),
    "an offset of 10^300": at_step("constants", {"w": {**CONSTANT, "offset": 10**300}}),
    "a size of 0": at_step("constants", {"w": {**CONSTANT, "shape": [0]}}),
    "a size beyond 64 bits": at_step("constants", {"w": {**CONSTANT, "shape": [2**62, 4]}}),
    "a size beyond the data": at_step("constants", {"w": {**CONSTANT, "shape": [2**20]}}),
    "another type": at_step("constants", {"w": {**CONSTANT, "dtype": "complex64"}}),
    "not a number": lambda header: {**header, "cuda": float("nan")},
}


STRICTER = ("a long name",)
"""What Python takes: zipfile reads what there is of a list of files."""


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[bundle.HEADER] = json.dumps(change(json.loads(content[bundle.HEADER]))).encode()
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def sign(folder: Path) -> None:
    """Write the hash of an engine's file to its manifest, as one who wants it to be loaded would."""
    content: Any = files.read_json(folder / manifest.NAME)
    content["engine"]["sha256"] = files.sha256(folder / "gpu.cuda")
    files.write_json(folder / manifest.NAME, content)


def by_bundle(folder: Path) -> str:
    """What Python says to an engine's file: "", or why it is refused."""
    try:
        bundle.require_described(folder / "gpu.cuda", described(folder))
        bundle.read(folder / "gpu.cuda", gpu.Gpu("a GPU", "8.6", "", "13.0"))
    except RuntimeError as error:
        return str(error)
    return ""


def refused(build: Build, folder: Path, *words: str, **variables: str) -> str:
    """Open an engine that must be refused in one line before the driver has loaded anything; returns the line."""
    done, calls = build.recorded(
        "client", "open", folder, 2, record=folder.parent / "calls", engine=folder, **variables
    )
    assert done.returncode == FILE, done.stdout + done.stderr
    assert done.stdout.startswith(f"{FILE} {folder}"), done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert [line for line in calls if not line.startswith("live")] == []
    for word in words:
        assert word in done.stdout
    return done.stdout


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_another_form_is_refused_by_both(checked: Build, tmp_path: Path, name: str) -> None:
    folder = cpp.made(tmp_path / "engine")
    rewritten(folder / "gpu.cuda", HEADERS[name])
    refused(checked, folder, "SHA-256", "is not the manifest's", "copy it again, or build it again")
    sign(folder)
    assert by_bundle(folder) or name in STRICTER
    refused(checked, folder, "copy it again, or build it again")


def cut(size: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: size(path.stat().st_size)]) and None


def changed(place: Callable[[bytes], int], piece: bytes) -> Callable[[Path], None]:
    """Write other bytes into a file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = place(bytes(content))
        content[at : at + len(piece)] = piece
        path.write_bytes(content)

    return change


def member(name: bytes, after: int) -> Callable[[bytes], int]:
    """A place after the name of a file in the archive, where its content begins but for an extra field."""
    return lambda content: content.index(name, content.index(b"PK\3\4", 100)) + len(name) + after


def listed(field: int) -> Callable[[bytes], int]:
    """A field of the last entry of the archive's list of files."""
    return lambda content: content.rindex(b"PK\1\2") + field


def ended(field: int) -> Callable[[bytes], int]:
    return lambda content: content.rindex(b"PK\5\6") + field


def added(name: str, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, content)

    return change


ARCHIVES: dict[str, Callable[[Path], None]] = {
    "empty": cut(lambda size: 0),
    "its beginning": cut(lambda size: 1000),
    "its half": cut(lambda size: size // 2),
    "without its last byte": cut(lambda size: size - 1),
    "other machine code": changed(member(b"8.6/cast", 1), b"?"),
    "other constants": changed(member(b"constants.bin", 50), b"?"),
    "a name in the list alone": changed(listed(46), b"C"),
    "a place beyond": changed(listed(42), b"\xf0\xff\xff\x7f"),
    "a place of ZIP64": changed(listed(42), b"\xff\xff\xff\xff"),
    "a method": changed(listed(10), b"\x08\0"),
    "encrypted": changed(listed(8), b"\1\0"),
    "a size beyond": changed(listed(20), b"\xf0\xff\xff\x7f\xf0\xff\xff\x7f"),
    "two sizes": changed(listed(20), b"\0\0\0\0"),
    "a long name": changed(listed(28), b"\xff\xff"),
    "a list elsewhere": changed(ended(16), b"\xff\xff\xff\x7f"),
    "a long list": changed(ended(12), b"\xff\xff\xff\x7f"),
    "packed": lambda path: rewritten(path, lambda header: header, zipfile.ZIP_DEFLATED),
    "one file more": added("extra.so", b"code"),
    "without its first byte": lambda path: path.write_bytes(path.read_bytes()[1:]) and None,
    "not an archive": lambda path: path.write_bytes(b"\x7fELF" * 99) and None,
    "deep JSON": lambda path: with_header(path, b"[" * 100_000),
    "JSON cut short": lambda path: with_header(path, b'{"cuda": "13'),
    "JSON that is not UTF-8": lambda path: with_header(path, b'{"cuda": "\xff"}'),
    "JSON with a tab in text": lambda path: with_header(path, b'{"cuda": "\t"}'),
    "JSON and more": lambda path: with_header(path, b"{} {}"),
    "half an escape": lambda path: with_header(path, b'{"\\u12'),
    "no header": lambda path: with_header(path, b""),
}


def with_header(path: Path, header: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {**{name: archive.read(name) for name in archive.namelist()}, bundle.HEADER: header}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_refused_by_both(checked: Build, tmp_path: Path, name: str) -> None:
    folder = cpp.made(tmp_path / "engine")
    ARCHIVES[name](folder / "gpu.cuda")
    refused(checked, folder, "SHA-256", "is not the manifest's")
    sign(folder)
    assert by_bundle(folder) or name in STRICTER
    refused(checked, folder, "copy it again, or build it again")


def test_every_length_of_a_file_has_its_sha256(checked: Build, tmp_path: Path) -> None:
    """And its CRC-32. The block of SHA-256 has 64 bytes."""
    lengths = set()
    for pad in range(0, 64):
        folder = cpp.made(tmp_path / str(pad), pad=pad)
        lengths.add((folder / "gpu.cuda").stat().st_size % 64)
        done, _ = checked.recorded("client", "open", folder, 1, record=tmp_path / "calls", engine=folder)
        assert done.returncode == 0, done.stdout
    assert len(lengths) > 15


@cache
def whole() -> dict[str, bytes]:
    """The files of an engine's folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = cpp.made(Path(name) / "engine")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


_fuzzed: list[Build] = []
"""The build that is fuzzed; a property of hypothesis gets no fixture."""


@fuzz.fuzzed(
    100, changes=st.just([]) | fuzz.swaps, edits=st.just([]) | fuzz.edits, manifest_edits=st.just([]) | fuzz.edits,
    manifest_changes=st.just([]) | fuzz.swaps,
)  # fmt: skip
def spoiled_folders(changes: Any, edits: Any, manifest_edits: Any, manifest_changes: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "engine"
        folder.mkdir()
        for file, content in whole().items():
            (folder / file).write_bytes(content)
        if changes:
            rewritten(folder / "gpu.cuda", lambda header: fuzz.reshaped(header, changes))
        (folder / "gpu.cuda").write_bytes(fuzz.spoiled((folder / "gpu.cuda").read_bytes(), edits))
        sign(folder)
        accepted = not by_bundle(folder)
        content = json.dumps(fuzz.reshaped(json.loads((folder / manifest.NAME).read_text()), manifest_changes)).encode()
        (folder / manifest.NAME).write_bytes(fuzz.spoiled(content, manifest_edits))
        done = _fuzzed[0].run("client", "open", folder, 2, **cpp.cuda(_fuzzed[0].folder, Path(name) / "calls", folder))
        # Launches that were changed may be refused by the driver.
        assert done.returncode in (0, FILE, CUDA), done.stdout + done.stderr
        assert done.stderr == ""
        if done.returncode:
            assert done.stdout.count("\n") == 1
        if not manifest_changes and not manifest_edits:
            assert accepted or done.returncode == FILE
            assert done.returncode == 0 or changes or edits


def test_spoiled_folders_are_refused_and_never_accepted_where_python_refuses(checked: Build) -> None:
    _fuzzed[:] = [checked]
    spoiled_folders()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ["builder"],
            "tensorrt",
            "builder must be cuda, found 'tensorrt'; name the folder of an engine of our kernels",
        ),
        (["engine", "file"], "../gpu.cuda", "engine.file must name a file"),
        (["engine", "file"], "other.cuda", "No such file"),
        (["engine", "sha256"], 3, "engine.sha256 must be text, found 3"),
        (["graph", "deploy", "graph"], "tao", "deploy.graph must be fused, found 'tao'"),
        (["graph", "deploy", "mode"], "other", "deploy.mode must be panoptic, semantic or instance"),
        (["graph", "deploy", "mode"], "semantic", "input and outputs must be those of deploy"),
        (["graph", "deploy", "frame_width_px"], 44, "input and outputs must be those of deploy"),
        (["graph", "deploy", "batch_size"], 0, "deploy.batch_size must be an integer from 1"),
        (["graph", "deploy", "object_mask_threshold"], "0.4", "must be a number from 0 to below 1, found '0.4'"),
        (["graph", "deploy", "object_mask_threshold"], 1e300, "must be a number from 0 to below 1, found another"),
        (["graph", "categories"], [{"id": 0, "name": "car", "isthing": 1}], "id must be an integer from 1"),
        (["graph", "categories"], [cpp.CATEGORIES[1]] * 2, "an id occurs twice"),
        (["graph", "deploy"], [], "graph.deploy must be an object, found a list"),
        (["graph", "steps"], None, "graph.steps must be a list, found null"),
        (
            ["graph", "steps"],
            [{"kind": "kernel"}],
            "keys must be kind, operator, attributes, inputs, outputs, tensors, f",
        ),
        (["graph", "steps"], [], "steps must be a list of 0 steps"),
        (["graph", "steps"], [{"kind": "other"}], "kind must be one of constants, kernel, found 'other'"),
    ],
)
def test_a_manifest_of_another_form_is_refused(
    checked: Build, tmp_path: Path, keys: list[str], value: object, message: str
) -> None:
    folder = cpp.made(tmp_path / "engine")
    content: Any = files.read_json(folder / manifest.NAME)
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    files.write_json(folder / manifest.NAME, content)
    environment = cpp.cuda(checked.folder, tmp_path / "calls", folder)
    done = checked.run("client", "open", folder, 2, **environment)
    assert done.returncode == FILE
    assert message in done.stdout
    assert done.stdout.count("\n") == 1
    assert "cuMem" not in "".join(cpp.calls(tmp_path / "calls"))


def test_a_folder_that_is_none_is_refused(checked: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "a\nb")
    (folder / "gpu.cuda").unlink()
    os.mkfifo(folder / "gpu.cuda")
    for where, message in ((tmp_path / "no\nwhere", "No such file"), (folder, "not a file")):
        done, _ = checked.recorded("client", "open", where, 2, record=tmp_path / "calls", engine=folder)
        assert done.returncode == FILE
        assert message in done.stdout
        assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("host", ["7.5 13000", "8.7 13000", "8.6 12060", "12.0 12080"])
def test_other_gpus_and_older_drivers_are_refused_in_pythons_words(checked: Build, tmp_path: Path, host: str) -> None:
    folder = cpp.made(tmp_path / "engine")
    capability, cuda = host.split()
    about = gpu.Gpu("no GPU", capability, "", f"{int(cuda) // 1000}.{int(cuda) % 1000 // 10}")
    with pytest.raises(RuntimeError) as caught:
        bundle.read(folder / "gpu.cuda", about)
    assert refused(checked, folder, CUDA_GPU=host) == f"{FILE} {caught.value}\n"


@needs_no_gpu
def test_without_a_gpu_the_file_is_checked_first(checked: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "engine")
    for variables in ({}, {**cpp.cuda(checked.folder, tmp_path / "calls", folder), "CUDA_GPU": ""}):
        done = checked.run("client", "open", folder, 2, **variables)
        assert done.returncode == NO_GPU, done.stdout + done.stderr
        assert done.stdout == f"{NO_GPU} found no NVIDIA GPU or no driver; run it where nvidia-smi lists the GPU\n"
    (folder / "gpu.cuda").write_bytes(b"other")
    assert checked.run("client", "open", folder, 2).returncode == FILE


def test_calls_that_fail_are_told_and_leave_nothing_behind(checked: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "engine")
    frames = frames_file(tmp_path / "frames", folder)
    command = ("client", "run", folder, 2, frames, tmp_path / "out")
    done, calls = checked.recorded(*command, record=tmp_path / "calls", engine=folder, CUDA_GPU="9.0 13000")
    assert done.returncode == 0
    # At its end it waits and frees.
    names = [line.split()[0] for line in calls[: calls.index(next(filter(TEARDOWN.match, reversed(calls[:-20]))))]]
    names = [name for name in names if not TEARDOWN.match(name)]
    tried = 0
    for name in dict.fromkeys(names):
        for number in {1, 2, names.count(name)} - ({names.count(name)} if name == "cuStreamSynchronize" else set()):
            if number > names.count(name):
                continue
            failed, calls = checked.recorded(
                *command, record=tmp_path / "calls", engine=folder, CUDA_GPU="9.0 13000", CUDA_FAIL=f"{name} {number}"
            )
            assert failed.returncode == CUDA, (name, number, failed.stdout, failed.stderr)
            assert failed.stdout == f"{CUDA} {name}: an error of the test (CUDA error 2)\n"
            assert failed.stderr == ""
            assert calls[-1] == "live 0"
            tried += 1
    assert tried > 30


def test_calls_with_wrong_arguments_are_refused(checked: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "engine")
    done, _ = checked.recorded("client", "misuse", folder, record=tmp_path / "calls", engine=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_threads_share_a_handle(tmp_path: Path) -> None:
    """Under ThreadSanitizer."""
    build = cpp.build(tmp_path / "threads", "-fsanitize=thread")
    folder = cpp.made(tmp_path / "engine")
    frames = frames_file(tmp_path / "frames", folder, 1)
    for _ in range(3):
        done, calls = build.recorded("client", "threads", folder, frames, record=tmp_path / "calls", engine=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert calls[-1] == "live 0"


def test_the_gpu_is_that_of_the_callers_context(released: Build, tmp_path: Path) -> None:
    folder = cpp.made(tmp_path / "engine")
    for command, found in ((("open", folder, 1), "8.6 8.6 no GPU"), (("second", folder), "9.0 9.0 second GPU")):
        done, calls = released.recorded(
            "client", *command, record=tmp_path / "calls", engine=folder, CUDA_GPU="8.6 13000", CUDA_SECOND="9.0"
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert done.stdout.split("\n")[0].endswith(found)
        assert calls[-1] == "live 0"


def test_the_gpu_is_that_of_the_callers_context_in_python_too(released: Build, tmp_path: Path) -> None:
    """torch.cuda.set_device makes the context of another GPU current."""
    code = """
import ctypes
from stages.engines.cuda import gpu
print(gpu.current())
driver, context = gpu.load_driver(), ctypes.c_void_p()
driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 1)
driver.cuCtxSetCurrent(context)
print(gpu.current())
"""
    variables = cpp.cuda(released.folder, tmp_path / "calls", tmp_path)
    variables |= {"CUDA_GPU": "8.6 13000", "CUDA_SECOND": "9.0", "PYTHONPATH": str(REPO)}
    first, second = must("python", "-c", code, cwd=REPO, **variables).splitlines()
    assert "name='no GPU', compute_capability='8.6'" in first
    assert "name='second GPU', compute_capability='9.0'" in second


def test_nothing_is_freed_where_the_callers_context_is_gone(released: Build, tmp_path: Path) -> None:
    """Its addresses may be another context's by then."""
    folder = cpp.made(tmp_path / "engine")
    done, calls = released.recorded(
        "client", "gone", folder, record=tmp_path / "calls", engine=folder, CUDA_GPU="8.6 13000", CUDA_SECOND="9.0"
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert calls[-1].startswith("live ")
    assert not [line for line in calls if line.startswith(("cuMemFree", "cuModuleUnload", "cuStreamDestroy"))]


def program(folder: Path, found_by: str) -> None:
    """Build and run a program, and a plugin, of a CMake project that gets the library by a command of CMake."""
    folder.mkdir()
    (folder / "main.cpp").write_text(
        "#include <vistas2engine.h>\nint main() {\n  v2e_engine *engine;\n"
        '  const int status = v2e_open("/nowhere", 2, &engine);\n'
        "  v2e_close(engine);\n  return status == V2E_FILE ? 0 : 1;\n}\n"
    )
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(robot CXX)\n{found_by}\n"
        "add_executable(robot main.cpp)\ntarget_link_libraries(robot vistas2engine::vistas2engine)\n"
        "add_library(plugin MODULE main.cpp)\ntarget_link_libraries(plugin vistas2engine::vistas2engine)\n"
    )
    must("cmake", "-S", str(folder), "-B", str(folder / "built"), cwd=folder)
    must("cmake", "--build", str(folder / "built"), cwd=folder)
    must(str(folder / "built/robot"), cwd=folder)


def test_a_project_of_cmake_finds_the_installed_library(released: Build, tmp_path: Path) -> None:
    must("cmake", "--install", str(released.folder), "--prefix", str(tmp_path / "installed"), cwd=tmp_path)
    program(tmp_path / "robot", f'find_package(vistas2engine 1.0 REQUIRED PATHS "{tmp_path / "installed"}")')
    needed = must("objdump", "-p", str(tmp_path / "robot/built/robot"), cwd=tmp_path)
    assert re.search(r"NEEDED +libvistas2engine\.so\.1\n", needed)


def test_a_project_of_cmake_has_the_library_as_its_part(tmp_path: Path) -> None:
    """Static, so also a plugin can hold it; and it can be installed."""
    cpp.require_tools("cmake", "g++", "make")
    program(tmp_path / "robot", f'set(BUILD_SHARED_LIBS OFF)\nadd_subdirectory("{cpp.SOURCES}" part)')
    assert not [*(tmp_path / "robot/built").rglob("segment")]
    must("cmake", "--install", str(tmp_path / "robot/built"), "--prefix", str(tmp_path / "installed"), cwd=tmp_path)
    assert [*(tmp_path / "installed").rglob("libvistas2engine.a")]
    program(tmp_path / "other", f'find_package(vistas2engine 1.0 REQUIRED PATHS "{tmp_path / "installed"}")')


def test_the_program_of_the_page_is_right(released: Build, tmp_path: Path) -> None:
    (program,) = re.findall(r"```c\n(.*?)```", (REPO / "docs/cpp.md").read_text(), re.DOTALL)
    (tmp_path / "page.c").write_text(program)
    library = ["-I", cpp.SOURCES / "include", "-L", released.folder, "-lvistas2engine", f"-Wl,-rpath,{released.folder}"]
    cpp.must("gcc", "-std=c11", *cpp.STRICT, tmp_path / "page.c", *library, "-o", released.folder / "page")
    folder = cpp.made(tmp_path / "engine")
    (tmp_path / "answers").mkdir()
    for number, array in enumerate(outputs("panoptic", 1, (33, 43), 7, 1).values()):
        (tmp_path / f"answers/answer.{number + 2}").write_bytes(array.tobytes())
    answers = {"CUDA_ANSWERS": str(tmp_path / "answers")}
    done, _ = released.recorded("page", folder, record=tmp_path / "calls", engine=folder, **answers)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"(class \d+, score (0\.\d\d|1\.00|-?nan), \d+ pixels\n)+", done.stdout)
    failed = released.run("page", tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "engine.json: No such file or directory" in failed.stderr


def test_the_library_needs_no_library_of_cuda(released: Build) -> None:
    needed = must("objdump", "-p", str(released.folder / "libvistas2engine.so"), cwd=REPO)
    found = set(re.findall(r"NEEDED +(\S+)", needed))
    assert found <= {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"}
    symbols = must("objdump", "-T", str(released.folder / "libvistas2engine.so"), cwd=REPO)
    exported = {
        line.split()[-1]
        for line in symbols.splitlines()
        if " .text" in line and "*UND*" not in line and " w " not in line
    }
    assert {name for name in exported if not name.startswith("_Z")} == {
        f"v2e_{name}" for name in ("open", "describe", "input", "submit", "result", "segments", "error", "close")
    }


@pytest.mark.slow
def test_a_board_of_aarch64_makes_the_same_calls(released: Build, kernels: Path, tmp_path: Path) -> None:
    """Built by Debian's cross compiler and run by QEMU: without a driver up to "no GPU", and with the recorder."""
    try:
        root = aarch64.python().parent
    except aarch64.UnavailableError as error:
        pytest.skip(f"no AArch64 user space: {error}")
    built = cpp.build(tmp_path / "arm", compiler="aarch64-linux-gnu-")
    assert "aarch64" in must("objdump", "-f", str(built.folder / "libvistas2engine.so"), cwd=REPO)
    board = Build(built.folder, (root / "qemu-aarch64", "-cpu", aarch64.CPU, "-L", root / "root"))
    without = board.run("client", "open", kernels, 2)
    assert (without.returncode, without.stdout.split()[0]) == (NO_GPU, str(NO_GPU)), without.stderr
    frames = frames_file(tmp_path / "frames", kernels)
    found = []
    for build in (released, board):
        variables = cpp.cuda(build.folder, tmp_path / "calls", kernels)
        # The emulator itself must not find a library of another CPU.
        path = variables.pop("LD_LIBRARY_PATH")
        board_path = {"QEMU_SET_ENV": f"LD_LIBRARY_PATH={path}"} if build is board else {"LD_LIBRARY_PATH": path}
        done = build.run("client", "run", kernels, 2, frames, tmp_path / "out", **variables, **board_path)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append((cpp.calls(tmp_path / "calls"), hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()))
    assert found[0] == found[1]


@pytest.mark.gpu
def test_on_a_gpu_the_bytes_are_pythons(released: Build, tmp_path: Path) -> None:
    """With the driver of this machine and real kernels."""
    here = gpu.current()
    assert here is not None, "this test needs an NVIDIA GPU"
    target = config.Target(**{**vars(cpp.TARGET), "compute_capabilities": [here.compute_capability]})
    engine.build(
        graph(tmp_path / "graph"), tmp_path / "gpu", "gpu", target, tmp_path / "cache", tmp_path / "metrics.json"
    )
    frames = frames_file(tmp_path / "frames", tmp_path / "gpu", 20)
    runtime = interface.backend(target).load(cpp.file_of(tmp_path / "gpu"), target)
    expected = b""
    for frame in np.fromfile(frames, np.uint8).reshape(-1, *runtime.input_buffer().shape):
        expected += b"".join(array.tobytes() for array in runtime.infer(frame).values())
    for in_flight in (1, 2, 3):
        done = released.run("client", "run", tmp_path / "gpu", in_flight, frames, tmp_path / "out")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "out").read_bytes() == expected
