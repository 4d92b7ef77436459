"""import_results: files that are no results. Results of the real pipeline: tests/project/test_pipeline.py."""

import tarfile
from pathlib import Path

import pytest

from stages.commands import import_results, results
from stages.releases import signing
from tests.conftest import REPO, run
from tests.support import keys


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


def test_the_file_is_opened_only_if_its_signature_is_right(tmp_path: Path) -> None:
    """It is no tar file, and there is no project: who opens it says so."""
    file = tmp_path / "results_x.tar"
    file.write_bytes(b"results")
    ann, mallory = keys.make(tmp_path / "ann"), keys.make(tmp_path / "mallory")
    signers = keys.allow(tmp_path / "signers", ann)

    def imported(**env: str) -> tuple[str, str]:
        done = run(
            "python", "-m", "stages.commands.import_results", str(file), cwd=tmp_path, PYTHONPATH=str(REPO), **env
        )
        assert done.returncode == 1
        return done.stdout, done.stderr

    allowed = {"ALLOWED_SIGNERS": str(signers)}
    assert imported(**allowed)[1].startswith(f"{file}: no signature, expected one by a signer of ALLOWED_SIGNERS")
    signing.sign_file(file, mallory)
    assert imported(**allowed)[1].startswith(f"{file}: signed by ED25519 key SHA256:")
    signing.sign_file(file, ann)
    shown, message = imported(**allowed)
    assert (shown, "params.yaml" in message) == (f"{file}: signed by ann@example.org\n", True)
    assert imported() == ("", message), "as before where no signers are set"
    file.write_bytes(b"other results")
    assert imported(**allowed)[1].startswith(f"{file}: its signature is not one of this content")
