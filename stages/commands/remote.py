"""remote: test a remote by writing and reading, and make it the one by which a team shares artifacts.

Run by `make remote URL=...`.

URL and shared options go to .dvc/config, secrets and personal options to .dvc/config.local. If the test fails, both
stay as they were.
"""

import getpass
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from stages.foundation import command_line, dvc_project
from stages.remotes import connection, settings


def build(url: str, options: list[str], project: Path) -> list[str]:
    """Test a remote and make it the default of the project; return what was done, one line each.

    `options` are DVC's, as KEY=VALUE. Raises ValueError for a URL or an option that can't be, and RuntimeError if the
    remote fails the test or what its kind needs can't be installed.
    """
    dvc = project / ".dvc"
    if not dvc.is_dir():
        raise RuntimeError(f"{project} is no clone of the project: it has no .dvc; run the command in one")
    remote = settings.parse(url, options, project)
    keyfile = remote.private.get("keyfile")
    if keyfile and not Path(keyfile).expanduser().is_file():
        raise ValueError(f"--set keyfile: found no file {keyfile}; name your private key, such as ~/.ssh/id_ed25519")
    _install(remote, project)
    with dvc_project.errors_in_one_line():
        connection.probe(settings.merged(dvc, remote))
        return ["tested: an object was written there, read and removed", *settings.write(dvc, remote)]


def _install(remote: settings.Remote, project: Path) -> None:
    extra = remote.kind.extra
    if importlib.util.find_spec(remote.kind.module) is None:
        env = {**os.environ, "EXTRAS": extra}
        if subprocess.run([project / "scripts/env"], env=env, check=False).returncode:
            raise RuntimeError(
                f"the extra {extra} for {remote.url} could not be installed; the settings are as they were"
            )
        importlib.invalidate_caches()


def _asked(option: str) -> str:
    """Return KEY=VALUE; a value - is read from the terminal or from standard input."""
    key, _, value = option.partition("=")
    if value != "-":
        return option
    return f"{key}={getpass.getpass(f'{key}: ') if sys.stdin.isatty() else sys.stdin.readline().rstrip(chr(10))}"


def main() -> None:
    """Command line of `make remote`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--url", required=True, help="s3://, gs://, azure://, ssh://, webdav(s):// or a folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="an option of DVC's remotes, such as endpointurl, region, user, password; a value - is asked for",
    )  # fmt: skip
    args = parser.parse_args()
    print("\n".join(build(args.url, [_asked(option) for option in args.set], Path.cwd())))


if __name__ == "__main__":
    command_line.run(main)
