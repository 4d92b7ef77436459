"""Files of weights: PyTorch's, pickles, safetensors, and folders of Hugging Face."""

import io
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from stages.training import resume
from stages.weights import hugging_face_folder, reader, tensor_files, wrappers
from tests.support import fuzz
from tests.support.fuzz import fuzzed

HEAD = "sem_seg_head.predictor.class_embed"


@cache
def whole() -> list[tuple[str, bytes]]:
    state = {f"{HEAD}.weight": torch.ones(3, 4), f"{HEAD}.bias": torch.arange(3.0), "backbone.a": torch.zeros(2)}
    made = []
    for content in ({"state_dict": state, "epoch": 1}, {"model": {f"module.{k}": v for k, v in state.items()}}):
        for as_zip in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=as_zip)
            made.append(("a.pth", file.getvalue()))
    arrays = {name: value.numpy() for name, value in state.items()}
    made += [("a.pkl", pickle.dumps({"model": arrays}, protocol)) for protocol in (2, 4, 5)]
    return [*made, ("a.safetensors", safetensors.torch.save(state))]


def read(path: Path) -> object:
    content = tensor_files.read(path)
    own, _ = wrappers.extract(path, content)
    return tensor_files.to_float32(path, own)


@fuzzed(80, number=st.integers(0, 7), changes=fuzz.edits, start=st.booleans())
def test_spoiled_weights_are_refused_or_read(number: int, changes: Any, start: bool) -> None:
    name, content = whole()[number]
    head = 300 if start else len(content)
    with fuzz.folder() as folder:
        path = folder / name
        path.write_bytes(fuzz.spoiled(content[:head], changes) + content[head:])
        fuzz.outcome(lambda: read(path))
        fuzz.outcome(lambda: reader.read(path))
        assert isinstance(resume.defect(path), str)


keys = st.sampled_from([HEAD, f"{HEAD}.bias", "model", "a\nb"]) | st.integers()
objects = st.recursive(
    st.just(torch.ones(2)) | fuzz.scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner),
    max_leaves=6,
)


@fuzzed(40, content=objects, recursive=st.booleans())
def test_any_content_is_refused_or_read(content: Any, recursive: bool) -> None:
    if recursive and isinstance(content, dict):
        content["model"] = content
    with fuzz.folder() as folder:
        path = folder / "a.pkl"
        with path.open("wb") as file:
            pickle.dump(_plain(content, {}), file)
        fuzz.outcome(lambda: reader.read(path))
        fuzz.outcome(lambda: reader.read_backbone(path))


def _plain(content: Any, seen: dict[int, Any]) -> Any:
    if isinstance(content, torch.Tensor):
        return content.numpy()
    if isinstance(content, dict):
        if id(content) not in seen:
            seen[id(content)] = made = {}
            made.update({key: _plain(value, seen) for key, value in content.items()})
        return seen[id(content)]
    return [_plain(value, seen) for value in content] if isinstance(content, list) else content


@fuzzed(30, shape=st.lists(st.integers(1, 4), max_size=3), number=st.integers(0, 9))
def test_tensors_are_read_as_they_were_written(shape: list[int], number: int) -> None:
    array = np.random.default_rng(number).normal(size=shape).astype(np.float32)
    state = {f"{HEAD}.bias": torch.from_numpy(array)}
    with fuzz.folder() as folder:
        torch.save(state, folder / "a.pth")
        (folder / "b.safetensors").write_bytes(safetensors.torch.save(state))
        (folder / "c.pkl").write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
        for name in ("a.pth", "b.safetensors", "c.pkl"):
            found = read(folder / name)
            assert isinstance(found, dict)
            np.testing.assert_array_equal(found[f"{HEAD}.bias"].numpy(), array)


CONFIG = {"model_type": "mask2former", "backbone_config": {"model_type": "swin"}, "id2label": {"0": "road", "1": "car"}}


@fuzzed(60, changes=fuzz.swaps, index=st.just({"weight_map": {"a": "m.safetensors"}}) | fuzz.values)
def test_folders_of_hugging_face(changes: Any, index: Any) -> None:
    with fuzz.folder() as folder:
        (folder / "config.json").write_text(json.dumps(fuzz.reshaped(CONFIG, changes)))
        (folder / "model.safetensors.index.json").write_text(json.dumps(fuzz.reshaped(index, changes)))
        content = fuzz.outcome(lambda: hugging_face_folder.read_config(folder))
        if content is not None:
            fuzz.outcome(lambda: hugging_face_folder.class_names(folder, content))
        fuzz.outcome(lambda: reader.read(folder))
        fuzz.outcome(lambda: hugging_face_folder.read_preprocessor(folder))


status = st.lists(
    st.sampled_from(
        ["Training loop in progress", "Train metrics generated.", "Eval metrics", "Starting Training Loop"]
    ),
    max_size=5,
)


@fuzzed(40, messages=status, values=st.lists(fuzz.values, max_size=2), changes=st.just([]) | fuzz.edits)
def test_a_status_file_of_a_killed_training_is_read(messages: Any, values: Any, changes: Any) -> None:
    lines = [{"message": message, "epoch": 0, "kpi": {"train_loss": 1.0}} for message in messages] + values
    with fuzz.folder() as folder:
        path = folder / "status.json"
        path.write_bytes(fuzz.spoiled("\n".join(map(json.dumps, lines)).encode(), changes))
        if not changes:
            rows = resume.history(path)
            assert all(row["train_loss"] == 1.0 for row in rows)
