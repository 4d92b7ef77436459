"""adopt: files that are no engine. Engines of the real pipeline: tests/project/test_pipeline.py."""

from pathlib import Path

import pytest

from stages.commands import adopt


@pytest.mark.parametrize("content", [b"", b"# a page of text\n" * 99, b"PK\x03\x04" + bytes(600)])
def test_what_is_no_tar_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "engine_x.tar"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole tar file") as caught:
        adopt.unpack(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("expected the file that `make engine` wrote")
