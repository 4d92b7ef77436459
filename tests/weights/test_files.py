"""Files of weights that are made to break their readers."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from stages.weights import reader, tensor_files


def test_a_pickle_that_numbers_objects_far_apart_is_refused(tmp_path: Path) -> None:
    """Python takes memory for all numbers in between: 32 GiB for the highest one."""
    path = tmp_path / "a.pkl"
    for code in (b"r\xff\xff\xff\x7f", b"p2147483647\n"):
        path.write_bytes(b"\x80\x02}" + code + b".")
        with pytest.raises(ValueError, match=r"a\.pkl: can't be read: .*it numbers an object 2147483647, in"):
            tensor_files.read(path)
    path.write_bytes(pickle.dumps({"a": [1.5, 1.5]}, protocol=0))
    assert tensor_files.read(path) == {"a": [1.5, 1.5]}


def test_dicts_within_themselves_are_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"a\.pkl: its dicts are nested too deeply, or within themselves"):
        reader.read(path)
