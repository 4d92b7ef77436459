"""Signatures by the real ssh-keygen, with keys that are made here."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.releases import signing
from tests.conftest import must
from tests.support import keys


@pytest.fixture
def ann(tmp_path: Path) -> Path:
    return keys.make(tmp_path / "ann")


@pytest.fixture
def signers(tmp_path: Path, ann: Path) -> Path:
    return keys.allow(tmp_path / "signers", ann)


def test_who_signed_is_told(tmp_path: Path, ann: Path, signers: Path) -> None:
    for content in (b"", b"a manifest\n", bytes(range(256)) * 5000):
        assert signing.require(content, signing.sign(content, ann), "it", signers) == "ann@example.org"
        file = tmp_path / "file.tar"
        file.write_bytes(content)
        assert signing.sign_file(file, ann) == tmp_path / "file.tar.sig"
        assert signing.require_file(file, signers) == "ann@example.org"


def test_ssh_keygen_itself_takes_the_signature(tmp_path: Path, ann: Path, signers: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text("{}")
    signing.sign_file(file, ann)
    command = f"ssh-keygen -Y verify -n vistas2engine -f {signers} -I ann@example.org -s {file}.sig < {file}"
    assert "Good" in must("bash", "-c", command, cwd=tmp_path)


def test_a_person_may_have_several_keys_and_a_pattern_is_a_name(tmp_path: Path, ann: Path, signers: Path) -> None:
    new = keys.make(tmp_path / "new")
    signers.write_text(
        f"# a comment\n\nann@example.org {ann.with_suffix('.pub').read_text()}"
        f'*@build.example.org,ann@example.org namespaces="vistas2engine,git" {new.with_suffix(".pub").read_text()}'
    )
    assert signing.require(b"x", signing.sign(b"x", ann), "it", signers) == "ann@example.org"
    assert signing.require(b"x", signing.sign(b"x", new), "it", signers) == "*@build.example.org"


def of_other_content(root: Path, ann: Path, signers: Path) -> bytes:
    return signing.sign(b"other", ann)


def in_gits_namespace(root: Path, ann: Path, signers: Path) -> bytes:
    (root / "text").write_bytes(b"content")
    must("ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(ann), str(root / "text"), cwd=root)
    return (root / "text.sig").read_bytes()


def by_a_stranger(root: Path, ann: Path, signers: Path) -> bytes:
    return signing.sign(b"content", keys.make(root / "mallory"))


def by_an_expired_key(root: Path, ann: Path, signers: Path) -> bytes:
    signers.write_text(signers.read_text().replace(" ", ' valid-before="20200101" ', 1))
    return signing.sign(b"content", ann)


def for_another_purpose(root: Path, ann: Path, signers: Path) -> bytes:
    signers.write_text(signers.read_text().replace(" ", ' namespaces="git" ', 1))
    return signing.sign(b"content", ann)


def where_nobody_is_allowed(root: Path, ann: Path, signers: Path) -> bytes:
    signers.write_text("")
    return signing.sign(b"content", ann)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *_: None, "it: no signature, expected one by a signer of ALLOWED_SIGNERS"),
        (of_other_content, "it: its signature is not one of this content in the namespace vistas2engine"),
        (in_gits_namespace, "it: its signature is not one of this content in the namespace vistas2engine"),
        (lambda *_: b"", "it: its signature is not one of this content"),
        (lambda *_: b"PK\x03\x04", "it: its signature is not one of this content"),
        (by_a_stranger, "it: signed by ED25519 key SHA256:"),
        (by_an_expired_key, "it: signed by ED25519 key SHA256:"),
        (for_another_purpose, "it: signed by ED25519 key SHA256:"),
        (where_nobody_is_allowed, "it: signed by ED25519 key SHA256:"),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path, ann: Path, signers: Path, make: Callable[[Path, Path, Path], bytes | None], message: str
) -> None:
    signature = make(tmp_path, ann, signers)
    with pytest.raises(RuntimeError) as caught:
        signing.require(b"content", signature, "it", signers)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_a_key_that_does_not_sign_is_refused(tmp_path: Path, ann: Path) -> None:
    # The public key of a private key that no agent holds.
    ann.unlink()
    for name in (ann.with_suffix(".pub"), Path(__file__)):
        with pytest.raises(RuntimeError, match=r"SIGNING_KEY .*: ssh-keygen does not sign with it \(.*private key"):
            signing.sign(b"x", name)


def test_a_file_of_the_users_is_no_signature(tmp_path: Path, ann: Path) -> None:
    (tmp_path / "kit.tar").write_text("kit")
    mine = tmp_path / "kit.tar.sig"
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"kit\.tar\.sig is there and is no signature"):
        signing.sign_file(tmp_path / "kit.tar", ann)
    assert mine.read_text() == "mine"
    assert signing.sign_file(tmp_path / "kit.tar", None) is None


def test_a_variable_that_is_set_is_never_left_aside(
    tmp_path: Path, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, read in (("SIGNING_KEY", signing.key), ("ALLOWED_SIGNERS", signing.signers)):
        monkeypatch.delenv(name, raising=False)
        assert read() is None
        monkeypatch.setenv(name, "")
        assert read() is None
        monkeypatch.setenv(name, str(tmp_path / "none"))
        with pytest.raises(FileNotFoundError, match=f"{name}: found no file .*none"):
            read()
        monkeypatch.setenv(name, "~/signers")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read() == signers
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("ssh-keygen") is None
    with pytest.raises(FileNotFoundError, match="ssh-keygen was not found; install OpenSSH's client"):
        signing.signers()
