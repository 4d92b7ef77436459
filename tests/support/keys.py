"""Keys of signers, by ssh-keygen."""

from pathlib import Path

from tests.conftest import must


def make(path: Path) -> Path:
    """Make a key without a passphrase; its public half is PATH.pub."""
    must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path), cwd=path.parent)
    return path


def allow(file: Path, *private: Path) -> Path:
    """Write a file of allowed signers: each key under its file's name at example.org."""
    lines = (f"{path.name}@example.org {path.with_suffix('.pub').read_text()}" for path in private)
    file.write_text("".join(lines))
    return file
