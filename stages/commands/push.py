"""push: upload the artifacts that dvc.lock names, and the run cache, to the shared remote."""

import sys

from stages.foundation import command_line, dvc_project
from stages.remotes import artifacts, connection, settings


def build(replace: list[str]) -> tuple[list[str], list[str]]:
    """Push, and return what was done and what is missing both here and there, in lines.

    `replace`: outputs to upload again although the remote has them. Raises RuntimeError if there is no remote, or it
    fails.
    """
    repo, name, url = artifacts.open_repo()
    with repo, dvc_project.errors_in_one_line():
        if not name:
            raise RuntimeError(f"nothing pushed: no shared remote is set; {settings.HINT}")
        if replace:
            return [f"remote {name}, {url}: {artifacts.replace(repo, replace, name, url)} objects uploaded again"], []
        with connection.talking(name, url):
            count = repo.push(run_cache=True)
            items = artifacts.missing(repo)
            there = repo.cloud.get_remote(name).odb.oids_exist({oid for item in items for oid in item.oids})
        lost = [item for item in items if not set(item.oids) <= set(there)]
    problems = []
    if lost:
        names = artifacts.shown(f"{item.path} ({item.stage})" for item in lost)
        problems = [f"remote {name}, {url}: neither there nor here: {names}; run `make all`, then `make push`"]
    return [
        f"remote {name}, {url}: {count} files pushed" if count else f"remote {name}, {url}: has everything"
    ], problems


def main() -> int:
    """Command line of `make push`. Returns 1 if something can be pushed from nowhere."""
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--replace", nargs="+", default=[], metavar="OUTPUT", help="upload these outputs again, over damaged objects"
    )
    done, problems = build(parser.parse_args().replace)
    print("\n".join(done))
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    command_line.run(main)
