"""What `make get` brought: an artifact of a release, beside the manifest of the release. Runs on devices."""

import json
import logging
from pathlib import Path
from typing import TypedDict

from stages.engines import manifest as engines
from stages.foundation import files, json_shapes
from stages.releases import signing

log = logging.getLogger(__name__)

NAME = "release.json"
"""The manifest of the release, byte for byte, in the folder of an artifact. Its signature is beside it."""
SIGNATURE = NAME + signing.SUFFIX


class File(TypedDict):
    """A file of an artifact."""

    bytes: int
    sha256: str


class Artifact(TypedDict):
    """An entry of `artifacts`."""

    path: str
    """In the project."""
    files: dict[str, File]
    """By their paths below `path`."""


class Release(TypedDict):
    """What is read of a release's manifest (stages/releases/manifest.py)."""

    version: str
    commit: str
    artifacts: dict[str, Artifact]


def parse(content: bytes, what: str) -> Release:
    """Parse the manifest of a release; `what` names it in messages. Raises ValueError for another content."""
    try:
        release: Release = json_shapes.parse(Release, json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: not the manifest of a release ({error}); get it again") from error
    return release


def check_engine(folder: Path) -> None:
    """Require a signed engine where ALLOWED_SIGNERS is set, and log who signed it. Raises as require_engine."""
    if signers := signing.signers():
        log.info("%s: signed by %s", files.printable(folder), require_engine(folder, signers))


def require_engine(folder: Path, signers: Path) -> str:
    """Return who signed the release that the engine in `folder` is of.

    The signed manifest has the SHA-256 of engine.json, and engine.json that of the engine, which is compared where it
    is loaded. Raises RuntimeError as signing.require, and where engine.json is not one of the release.
    """
    release, signature = folder / NAME, folder / SIGNATURE
    content = release.read_bytes() if release.is_file() else b""
    signed = signature.read_bytes() if signature.is_file() and release.is_file() else None
    who = signing.require(content, signed, files.printable(release), signers)
    engine = folder / engines.NAME
    found = files.sha256(engine) if engine.is_file() else "no such file"
    about = parse(content, files.printable(release))
    listed = [each["files"] for each in about["artifacts"].values()]
    known = {each[engines.NAME]["sha256"] for each in listed if engines.NAME in each}
    if found not in known:
        raise RuntimeError(
            f"{files.printable(engine)}: SHA-256 {found} is of no engine in the release {about['version']} that {who} "
            "signed; get it again by `make get`"
        )
    return who
