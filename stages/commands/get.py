"""get: take an artifact of a release of any repository, once its manifest is checked. Not a DVC stage.

Run by `make get URL=... VERSION=1.2.0 NAME=engine-rtx`. With ALLOWED_SIGNERS the signature of the release is checked
before anything else is read. Each file is compared with its SHA-256 in the manifest, and the folder appears only if all
are right. The manifest and its signature lie in it, so that it can be checked again wherever it is copied.
"""

import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from stages.commands import release
from stages.foundation import command_line, dvc_project, files, ownership
from stages.releases import received, signing

OWN = (received.NAME, received.SIGNATURE, ownership.NAME)
"""Names that we write into the folder."""


def build(url: str, version: str, name: str, out: Path, signers: Path | None) -> list[str]:
    """Get artifact `name` of a release into the folder `out`; return what was found, in lines.

    `url` is a git URL, or the folder of a clone. Raises ValueError for a version that is not SemVer, a manifest of
    another shape, and an `out` that has other files; RuntimeError where the signature, the version or a file is not as
    it should be, and where git or the remote does not have them. `out` is as it was then.
    """
    from dvc.repo import Repo
    from dvc.repo.open_repo import clean_repos

    release.check_version(version)
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with dvc_project.errors_in_one_line(), Repo.open(url, rev=f"v{version}") as repo:
            return _get(repo.dvcfs, version, name, out, signers)
    finally:
        clean_repos()


def _get(project: Any, version: str, name: str, out: Path, signers: Path | None) -> list[str]:
    """`project` is the file system of the release's commit, of git and DVC."""
    place, what = f"{release.folder_of(version)}/{release.MANIFEST}", f"the manifest of release {version}"
    content = _read(project, place)
    if content is None:
        raise RuntimeError(f"v{version} has no {place}: `make release` did not make it; name another VERSION")
    signature = _read(project, place + signing.SUFFIX)
    if signers:
        signed = f"signed by {signing.require(content, signature, what, signers)}"
    else:
        signed = "signed; ALLOWED_SIGNERS is not set, so nobody checked by whom" if signature else "not signed"
    about = received.parse(content, what)
    if about["version"] != version:
        raise RuntimeError(f"{what} is one of {files.printable(about['version'])}: it was put there by hand")
    if name not in about["artifacts"]:
        known = files.printable(", ".join(sorted(about["artifacts"])))
        raise RuntimeError(f"release {version} has no artifact {files.printable(name)}; NAME is one of {known}")
    artifact = about["artifacts"][name]
    with files.atomic_write(out, recorded=True) as draft:
        draft.mkdir()
        for path, expected in artifact["files"].items():
            _require_inside(path, what)
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            _fetch(project, f"{artifact['path']}/{path}", draft / path)
            found = files.sha256(draft / path)
            if found != expected["sha256"]:
                raise RuntimeError(
                    f"{name}/{path}: SHA-256 {found}, expected {expected['sha256']} of {what}; the remote has another "
                    "file: ask who released it"
                )
        (draft / received.NAME).write_bytes(content)
        if signature:
            (draft / received.SIGNATURE).write_bytes(signature)
    count = len(artifact["files"])
    return [
        f"{files.printable(out)}: {name} of release {version}, {count} files, each as in the manifest",
        f"the manifest is {signed}",
    ]


def _require_inside(path: str, what: str) -> None:
    """Raise ValueError for a path that leads out of a folder, or has one of our names."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path or path in OWN:
        raise ValueError(f"{what}: found the path {files.printable(path)!r} in it, expected one inside of its artifact")


def _read(project: Any, path: str) -> bytes | None:
    try:
        return bytes(project.read_bytes(path))
    except FileNotFoundError:
        return None


def _fetch(project: Any, path: str, out: Path) -> None:
    """Copy a file. DVC's own `get_file` links it to a remote that is a folder, where a later edit would change it."""
    try:
        with project.open(path, "rb") as source, out.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except Exception as error:  # DVC's file systems raise errors of their own, of many kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RuntimeError(
            f"{files.printable(path)}: not in the release's DVC remote, or it can't be reached from here "
            f"({files.printable(reason)}); `make push` in the project of the release uploads it"
        ) from error


def main() -> None:
    """Command line of `make get`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--url", required=True, help="git URL, or the folder of a clone")
    parser.add_argument("--version", required=True, help="version of the release, such as 1.2.0")
    parser.add_argument("--name", required=True, help="artifact, such as engine-rtx or checkpoint")
    parser.add_argument("--out", type=Path, help="new folder, or one of an earlier call; default: the artifact's name")
    args = parser.parse_args()
    lines = build(args.url, args.version, args.name, args.out or Path(args.name), signing.signers())
    print("\n".join(lines))


if __name__ == "__main__":
    command_line.run(main)
