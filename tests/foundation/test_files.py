import hashlib
import os
from pathlib import Path

import pytest

from stages.foundation import files


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_failure_leaves_the_old_output(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"

    def write(path: Path, text: str) -> None:
        if kind == "folder":
            path.mkdir()
            path = path / "a.txt"
        path.write_text(text)

    with files.atomic_write(out) as draft:
        write(draft, "old")

    def fail_midway() -> None:
        with files.atomic_write(out) as draft:
            write(draft, "new")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert (out / "a.txt" if kind == "folder" else out).read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]

    with files.atomic_write(out) as draft:
        write(draft, "new")
    assert (out / "a.txt" if kind == "folder" else out).read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_is_kept_is_there_again(tmp_path: Path) -> None:
    def fail_midway() -> None:
        with files.atomic_write(tmp_path / "out", keep=True) as draft:
            draft.mkdir()
            (draft / "a.txt").write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert not (tmp_path / "out").exists()
    with files.atomic_write(tmp_path / "out", keep=True) as draft:
        assert (draft / "a.txt").read_text() == "half"
    assert (tmp_path / "out" / "a.txt").exists()
    assert not draft.exists()


def test_a_folder_that_is_no_earlier_output_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.jpg").write_text("mine")

    def write() -> None:
        with files.atomic_write(out) as draft:
            draft.mkdir()
            (draft / "label_map.json").write_text("[]")

    with pytest.raises(ValueError, match=r"out has holiday\.jpg and none of label_map\.json"):
        write()
    assert [path.name for path in out.iterdir()] == ["holiday.jpg"]
    (out / "holiday.jpg").rename(tmp_path / "holiday.jpg")
    for _ in range(2):
        write()


def test_a_folder_and_a_file_never_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()

    def write(out: Path) -> None:
        with files.atomic_write(out) as draft:
            draft.mkdir() if out.name == "file" else draft.write_text("new")

    with pytest.raises(ValueError, match="file is a file, expected a folder"):
        write(tmp_path / "file")
    with pytest.raises(ValueError, match="folder is a folder, expected a file"):
        write(tmp_path / "folder")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with files.atomic_write(tmp_path / "out", recorded=True) as draft:
        draft.mkdir()
        (draft / "a").write_text("a")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk/a").read_text() == "a"


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"pq": 1')
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON"):
        files.read_json(path)


def test_a_missing_or_too_deep_json_names_the_file_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError, match=r"metrics\.json not found; run `make all`, or `dvc pull`"):
        files.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON \(nested too deeply\); restore it"):
        files.read_json(path)
    path.write_text("1" * 5000)
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON \(Exceeds the limit.*; restore it"):
        files.read_json(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"metrics\.json:1: found byte 0xff, which is not UTF-8; save") as raised:
        files.read_json(path)
    assert "not JSON" not in str(raised.value)


def test_json_is_written_with_indents_and_a_final_line_end(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "a": [\n    1\n  ]\n}\n'


def test_the_hash_is_that_of_all_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a b/é", "a b/é"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        (os.fsdecode(b"a\xffb"), "a\\xffb"),
        ("a\ud800b", "a\\ud800b"),
        ("\u2028", "\\u2028"),
    ],
)
def test_a_path_is_shown_in_one_line_of_utf8(path: str, shown: str) -> None:
    """JSON can have halves of characters, which no file name and no UTF-8 has."""
    assert files.printable(path) == shown
    assert files.printable(Path(path)) == shown
    assert files.printable(path).encode()


def test_a_name_is_utf8_or_not() -> None:
    assert files.is_utf8("é")
    assert not files.is_utf8(os.fsdecode(b"\xff"))
    assert not files.is_utf8("\ud800")


def test_what_another_wrote_into_a_recorded_folder_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write() -> None:
        with files.atomic_write(out, recorded=True) as draft:
            draft.mkdir()
            (draft / "a").write_text("a")

    write()
    write()
    (out / "mine\n").write_text("mine")
    message = (
        rf"^{out} has mine\\n, which this command did not write, and would be replaced as a whole; "
        r"choose a new or an empty folder, or delete that one yourself$"
    )
    with pytest.raises(ValueError, match=message):
        write()
    assert (out / "mine\n").exists()
