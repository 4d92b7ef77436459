"""import_results: files that are no results. Results of the real pipeline: tests/project/test_pipeline.py."""

import tarfile
from pathlib import Path

import pytest

from stages.commands import import_results, results


@pytest.mark.parametrize("content", [b"", b"# a page of text\n" * 99, b"PK\x03\x04" + bytes(600)])
def test_what_is_no_tar_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "results_x.tar"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole tar file") as caught:
        import_results.unpack(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("expected the results that a kit or `make engine` wrote")


def test_a_file_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "taxes.tar"
    results.require_former(out, "kit.json")
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"taxes\.tar is there, and this command did not write it; give OUT"):
        results.require_former(out, "kit.json")
    with tarfile.open(out, "w") as tar:
        tar.add(__file__, "kit_x/kit.json")
    results.require_former(out, "kit.json")
