"""Signatures of releases and of files that travel, by OpenSSH's `ssh-keygen -Y`. Runs on devices.

Two environment variables choose, each off while it is unset or empty:

    SIGNING_KEY      private key, or the public key of one that ssh-agent holds: what is written for others is signed
    ALLOWED_SIGNERS  file of those whose signatures count: what others wrote is refused without one of them

Formats: PROTOCOL.sshsig of OpenSSH for a signature, and "ALLOWED SIGNERS" in ssh-keygen(1) for the file.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from stages.foundation import files

NAMESPACE = "vistas2engine"
"""Part of what is signed, so that a signature for git or for another program is none here."""
SUFFIX = ".sig"
"""A signature's file is named like the file that it signs, with this at the end; so does ssh-keygen."""
HEADER = b"-----BEGIN SSH SIGNATURE-----"


def key() -> Path | None:
    """Return the file of SIGNING_KEY, or None where it is not set.

    Raises FileNotFoundError where there is no such file, or no ssh-keygen.
    """
    return _named("SIGNING_KEY", "the private key to sign with, or its public key where ssh-agent holds it")


def signers() -> Path | None:
    """Return the file of ALLOWED_SIGNERS, or None where it is not set. Raises as `key`."""
    return _named("ALLOWED_SIGNERS", "a file with a line `NAME KEYTYPE KEY` for each signer")


def _named(variable: str, expected: str) -> Path | None:
    value = os.environ.get(variable, "")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{variable}: found no file {files.printable(path)}, expected {expected}; or unset it")
    if shutil.which("ssh-keygen") is None:
        raise FileNotFoundError(
            f"{variable} is set, and ssh-keygen was not found; install OpenSSH's client, for example by: "
            "apt install openssh-client"
        )
    return path


def sign(content: bytes | Path, key: Path) -> bytes:
    """Return the signature of some bytes, or of a file, by `key`. ssh-keygen may ask for its passphrase.

    Raises RuntimeError where ssh-keygen does not sign.
    """
    done = _ssh_keygen("sign", "-f", str(key), content=content)
    if done.returncode or not done.stdout.startswith(HEADER):
        raise RuntimeError(
            f"SIGNING_KEY {files.printable(key)}: ssh-keygen does not sign with it ({_said(done)}); name a private "
            "key, or its public key where ssh-agent holds it"
        )
    return done.stdout


def sign_file(path: Path, key: Path | None) -> Path | None:
    """Write the signature of a file beside it, and return where; None without a key.

    Raises ValueError where a file of that name is no signature, and as `sign`.
    """
    if key is None:
        return None
    out = path.with_name(path.name + SUFFIX)
    if out.exists() and not out.read_bytes().startswith(HEADER):
        raise ValueError(f"{files.printable(out)} is there and is no signature; choose another name for the file")
    with files.atomic_write(out) as draft:
        draft.write_bytes(sign(path, key))
    return out


def require_file(path: Path, signers: Path) -> str:
    """Return who signed a file, by the signature beside it. Raises RuntimeError as `require`."""
    signature = path.with_name(path.name + SUFFIX)
    content = signature.read_bytes() if signature.is_file() else None
    return require(path, content, files.printable(path), signers)


def require(content: bytes | Path, signature: bytes | None, what: str, signers: Path) -> str:
    """Return the name under which `signers`, a file of allowed signers, has the one who signed `content`.

    `what` names the content in messages. Raises RuntimeError, with what to do, where it is not signed, where the
    signer is not allowed, and where the signature is of another content.
    """
    if signature is None:
        raise RuntimeError(
            f"{what}: no signature, expected one by a signer of ALLOWED_SIGNERS ({files.printable(signers)}); get a "
            "signed one, or unset ALLOWED_SIGNERS for what you made yourself"
        )
    with tempfile.NamedTemporaryFile(suffix=SUFFIX) as file:
        file.write(signature)
        file.flush()
        by = ("-s", file.name)
        found = _ssh_keygen("find-principals", *by, "-f", str(signers))
        # What find-principals prints on success are names. Only `verify` decides.
        names = found.stdout.decode(errors="surrogateescape").splitlines() if found.returncode == 0 else []
        refused = found
        for name in names:
            refused = _ssh_keygen("verify", *by, "-f", str(signers), "-I", name, content=content)
            if refused.returncode == 0:
                return name
        whole = _ssh_keygen("check-novalidate", *by, content=content)
    if whole.returncode:
        raise RuntimeError(
            f"{what}: its signature is not one of this content in the namespace {NAMESPACE} ({_said(whole)}); get both "
            "again from who signed it"
        )
    by_key = re.search(r"\S+ key SHA256:\S+", whole.stdout.decode(errors="replace"))
    raise RuntimeError(
        f"{what}: signed by {by_key[0] if by_key else 'a key'}, expected a signer of ALLOWED_SIGNERS "
        f"({files.printable(signers)}: {_said(refused)}); add the signer's line there if you trust them"
    )


def _ssh_keygen(action: str, *arguments: str, content: bytes | Path = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y ACTION` with `content` as its input; a file is not read into memory."""
    namespace = () if action == "find-principals" else ("-n", NAMESPACE)
    command = ["ssh-keygen", "-Y", action, *namespace, *arguments]
    if isinstance(content, bytes):
        return subprocess.run(command, input=content, capture_output=True, check=False)
    with content.open("rb") as file:
        return subprocess.run(command, stdin=file, capture_output=True, check=False)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return what ssh-keygen said, in one line."""
    lines = (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()
    return files.printable("; ".join([line.strip() for line in lines if line.strip()][:3])) or "no message"
