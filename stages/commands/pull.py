"""pull: download the artifacts that dvc.lock names, and the run cache, and check each against its hash."""

import sys
from typing import Any

from stages.foundation import command_line, dvc_project
from stages.remotes import artifacts, connection, settings


def build() -> tuple[list[str], list[str]]:
    """Pull; return what was done and what is missing, in lines.

    Raises RuntimeError if the remote fails, or DVC can't put an output into its place.
    """
    repo, name, url = artifacts.open_repo()
    with repo, dvc_project.errors_in_one_line():
        if not name:
            items = artifacts.missing(repo)
            line = _without_remote(items)
            return ([], [line]) if items else ([line], [])
        with connection.talking(name, url) as log:
            error, count = _pull(repo)
            items = artifacts.missing(repo)
            artifacts.find_damaged(repo, items, name, log.refused)
        if error is not None and not items:
            raise error
    return [f"remote {name}, {url}: {count} files fetched and checked"], _problems(items, name, url)


def _pull(repo: Any, without: frozenset[str] = frozenset()) -> tuple[Exception | None, int]:
    """Pull by DVC, `without` the outputs of these hashes.

    Return the error of what it could not fetch or check out, and the number of files fetched.
    """
    from dvc.exceptions import CheckoutError, DownloadError
    from dvc_objects.errors import ObjectFormatError

    outs = [out for out in repo.index.outs if out.use_cache and out.hash_info and out.hash_info.value not in without]
    targets = [str(out) for out in outs] if without else None
    try:
        return None, int(repo.pull(targets, run_cache=True)["stats"]["fetched"])
    except CheckoutError as error:
        return error, int(error.result["stats"]["fetched"])
    except DownloadError as error:
        # DVC stops before it puts the others into their places.
        repo.checkout(targets, allow_missing=True)
        return error, 0
    except ObjectFormatError as error:
        # The list of a folder's files is damaged, and DVC stops before all others.
        broken = frozenset(out.hash_info.value for out in outs if out.hash_info.value in str(error))
        if not broken:
            raise
        later, count = _pull(repo, without | broken)
        return later or error, count


def _without_remote(items: list[artifacts.Missing]) -> str:
    if not items:
        return f"nothing pulled: no shared remote is set, and nothing is missing here; {settings.HINT}"
    names = artifacts.shown(f"{item.path} ({item.stage})" for item in items)
    return (
        f"nothing pulled: no shared remote is set, and {len(items)} outputs are missing here: {names}; "
        f"`make all` builds them; to share them, {settings.HINT}"
    )


def _problems(items: list[artifacts.Missing], name: str, url: str) -> list[str]:
    damaged = [item for item in items if item.damaged]
    lines = [
        f"remote {name}, {url}: damaged there, refused: {artifacts.shown(item.damaged)}; "
        f"where {item.path} is whole, run `make push ARGS='--replace {item.path}'`, or build it: `make all`"
        for item in damaged
    ]
    lacking = [item for item in items if not item.damaged]
    if lacking:
        names = artifacts.shown(f"{item.path} ({item.stage})" for item in lacking)
        lines.append(
            f"remote {name}, {url}: lacks {len(lacking)} outputs: {names}; "
            "`make all` builds them, or `make push` where they are"
        )
    return lines


def main() -> int:
    """Command line of `make pull`. Returns 1 if outputs are still missing."""
    command_line.parser(__doc__).parse_args()
    done, problems = build()
    for line in done:
        print(line)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    command_line.run(main)
