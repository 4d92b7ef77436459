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


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"pq": 1')
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON"):
        files.read_json(path)
