"""release: write the manifest, the model card and pictures of the current commit, commit them and set the tags.

Run by `make release VERSION=1.2.0`. The tags are v1.2.0 and, for each artifact, NAME@v1.2.0, by which `dvc artifacts
get` finds it. Refuses a changed tree, stale stages, missing outputs and a version that is there. Pushes nothing. With
--check it derives the manifest of a release again, and prints each difference.

The manifest has the hashes of all else, so its signature, by SIGNING_KEY, covers the release. With ALLOWED_SIGNERS
--check compares nothing before it has checked the signature.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from stages import config
from stages.commands import pipeline_state
from stages.foundation import command_line, dvc_project, files, git, locks
from stages.releases import card, manifest, pictures, signing, source
from stages.releases.manifest import Json

# semver.org, without build metadata, by which versions would not be ordered.
VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-((0|[1-9]\d*|\d*[a-zA-Z-][\da-zA-Z-]*)(\.(?!$)|$))+)?"
PICTURES = 2
MAX_LINES = 10
"""Lines of one kind that are printed."""
MANIFEST = "manifest.json"
log = logging.getLogger(__name__)


def build(root: Path, version: str, with_pictures: bool, key: Path | None = None) -> list[str]:
    """Release the commit that is checked out at `root`, signed by `key`; return its tags, the version's first.

    Raises ValueError for a version that is not SemVer, and RuntimeError for a state that can't be released. Then
    nothing is changed.
    """
    check_version(version)
    commit = git.text(root, "rev-parse", "HEAD")
    place = root / folder_of(version)
    with source.opened(root, commit) as at:
        tags = _tags(at.artifacts, version)
        _require_free(root, place, tags)
        _require_clean(root)
        _require_up_to_date(root)
        content = manifest.derive(at, version, git.text(root, "show", "-s", "--format=%cI", commit))
        tags = _tags(content["artifacts"], version)
    with locks.held(place):
        _require_free(root, place, tags)  # Again, since another process may have made it.
        with files.atomic_write(place) as draft:
            draft.mkdir()
            columns = pictures.write(draft / "pictures", _sets(root), PICTURES) if with_pictures else []
            names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*.jpg"))
            (draft / "README.md").write_text(card.render(content, names, columns), encoding="utf-8")
            hashes = {name: files.sha256(draft / name) for name in ("README.md", *names)}
            files.write_json(draft / MANIFEST, content | {"columns": columns, "files": hashes})
            signing.sign_file(draft / MANIFEST, key)
        _record(root, place, commit, version, tags)
    return tags


def check(root: Path, version: str, signers: Path | None = None) -> list[str]:
    """Derive the manifest of a release again; return a line for each difference.

    With `signers`, a file of allowed signers, the signature is checked first.

    Raises ValueError for a version that is not SemVer, and RuntimeError where the release, its commit or its artifacts
    are not here, or where it is not signed as `signers` asks.
    """
    check_version(version)
    tag = f"v{version}"
    release = git.commit(root, f"refs/tags/{tag}")
    if release is None:
        raise RuntimeError(f"there is no tag {tag} here; run `git fetch --tags`, or name another VERSION")
    path = f"{folder_of(version)}/{MANIFEST}"
    written = git.show(root, release, path)
    if written is None:
        raise RuntimeError(f"{tag} has no {path}: `make release` did not make it; name another VERSION")
    if signers:
        signature = git.show(root, release, path + signing.SUFFIX)
        log.info("%s: signed by %s", tag, signing.require(written, signature, f"{tag}: {path}", signers))
    recorded: Json = manifest.parse(written, f"{tag}: {path}")
    if recorded.get("format") != manifest.FORMAT:
        raise RuntimeError(
            f"{tag} has a manifest of form {recorded.get('format')}, this code writes form {manifest.FORMAT}; "
            f"run the check in a checkout of {tag}"
        )
    commit = git.text(root, "rev-parse", "--verify", f"{recorded['commit']}^{{commit}}")
    found = [
        f"{path}: changed between the released commit {commit[:12]} and {tag}"
        for path in git.entries(root, "diff", "--name-only", "-z", commit, release)
        if not path.startswith(f"{folder_of(version)}/")
    ]
    with source.opened(root, commit) as at:
        derived = manifest.derive(at, version, git.text(root, "show", "-s", "--format=%cI", commit))
    paths = git.entries(root, "ls-tree", "-r", "-z", "--name-only", release, f"{folder_of(version)}/")
    contents = {path.removeprefix(f"{folder_of(version)}/"): git.show(root, release, path) or b"" for path in paths}
    unlisted = (MANIFEST, MANIFEST + signing.SUFFIX)
    hashes = {name: hashlib.sha256(each).hexdigest() for name, each in contents.items() if name not in unlisted}
    derived |= {"columns": recorded.get("columns", []), "files": hashes}
    found += manifest.differences(recorded, json.loads(json.dumps(derived)))
    # Another version of the template gives another text.
    if not git.run(root, "diff", "--name-only", release, "--", "stages/releases"):
        jpegs = sorted(name for name in hashes if name.endswith(".jpg"))
        text = card.render(derived, jpegs, derived["columns"])
        if hashlib.sha256(text.encode()).hexdigest() != hashes.get("README.md"):
            found.append("README.md: not the model card that the derived manifest gives")
    for name in _tags(derived["artifacts"], version)[1:]:
        place = git.commit(root, f"refs/tags/{name}")
        if place != release:
            found.append(f"tag {name}: expected at {release[:12]} as {tag}, found {place[:12] if place else 'none'}")
    return found


def check_version(version: str) -> None:
    """Raise ValueError for a version that is not one by semver.org."""
    if not re.fullmatch(VERSION, version):
        raise ValueError(f"VERSION: must be a version by semver.org, such as 1.2.0 or 1.2.0-rc.1, found {version!r}")


def folder_of(version: str) -> str:
    """Return the path of a release in the repository."""
    return f"releases/{version}"


def _tags(artifacts: Iterable[str], version: str) -> list[str]:
    return [f"v{version}", *(f"{name}@v{version}" for name in sorted(artifacts))]


def _require_free(root: Path, folder: Path, tags: list[str]) -> None:
    there = git.text(root, "tag", "--list", *tags).splitlines()
    if there:
        raise RuntimeError(f"tag {there[0]} is there already; choose another VERSION: a release never changes")
    if folder.exists():
        raise RuntimeError(f"{folder} already exists; choose another VERSION, or remove it in a commit")


def _require_clean(root: Path) -> None:
    changed = git.text(root, "status", "--porcelain").splitlines()
    if changed:
        raise RuntimeError(
            f"git has {len(changed)} uncommitted changes:\n" + _lines(changed) + "\ncommit or stash them first"
        )


def _require_up_to_date(root: Path) -> None:
    with dvc_project.opened(root) as repo:
        # DVC names stages and files relative to the working directory.
        changes = pipeline_state.changes(repo).items()
    stale = [f"{name.rpartition('dvc.yaml:')[2]}: {', '.join(words)}" for name, words in changes]
    if stale:
        raise RuntimeError(
            f"{len(stale)} stages are stale:\n{_lines(stale)}\n"
            "run `make all`, or `make pull` for what is not in cache, or `make import-results` for another machine's"
        )


def _lines(found: list[str]) -> str:
    more = [f"  and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
    return "\n".join([f"  {line}" for line in found[:MAX_LINES]] + more)


def _sets(root: Path) -> dict[str, Path]:
    """Return the panoptic sets that are shown, by name: annotation, checkpoint and the first engine that was run."""
    sets = {"annotation": root / "data/coco/val", "checkpoint": root / "data/evaluate"}
    runnable = config.load(root / "params.yaml").runnable
    return sets | {f"engine {name}": root / "data/verify" / name for name in runnable[:1]}


def _record(root: Path, folder: Path, commit: str, version: str, tags: list[str]) -> None:
    """Commit `folder` and set the tags; on an error undo both and remove the folder."""
    path, title, done = folder_of(version), f"Release {version}", list[str]()
    try:
        git.run(root, "add", "--force", "--", path)
        git.run(root, "commit", "--quiet", "--message", title, "--", path)
        for tag in tags:
            git.run(root, "tag", "--annotate", "--message", title, tag)
            done.append(tag)
    except BaseException:
        for tag in done:
            git.run(root, "tag", "--delete", tag)
        git.run(root, "reset", "--quiet", "--soft", commit)
        git.run(root, "rm", "--quiet", "--cached", "-r", "--force", "--ignore-unmatch", "--", path)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def main() -> int:
    """Command line of `make release` and `make release-check`. Returns the exit status: 1 for a difference."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--version", required=True, help="a version by semver.org, such as 1.2.0")
    parser.add_argument("--check", action="store_true", help="derive a release's manifest again and compare")
    parser.add_argument(
        "--no-pictures", action="store_true", help="leave out validation pictures, if you may not show them"
    )
    args = parser.parse_args()
    root = Path.cwd()
    if args.check:
        found = check(root, args.version, signing.signers())
        print("\n".join(found) or f"v{args.version}: the manifest derived again from its commit is the same")
        return 1 if found else 0
    key = signing.key()
    tags = build(root, args.version, not args.no_pictures, key)
    place = folder_of(args.version)
    unstated = [
        path
        for path, found in files.read_json(root / place / MANIFEST)["licences"].items()
        if not (found["stated"] or found["file"])
    ]
    for path in unstated:
        print(f"note: licence of {path}: not stated; {manifest.LICENCES} can state it, for the next version")
    print(f"{place} is committed and tagged{', signed by ' + str(key) if key else ''}; nothing was pushed")
    print(f"look at it:  git show --stat v{args.version}")
    print(f"publish it:  make push && git push origin HEAD {' '.join(tags)}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
