"""Artifacts between DVC's cache and the shared remote: which are missing, which the remote has, which are damaged."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.remotes import connection, settings

MAX_SHOWN = 20


@dataclass
class Missing:
    """An output whose content is not in this workspace's cache."""

    path: str
    stage: str
    oids: list[str] = field(default_factory=list)
    """Hashes of the objects that are missing, those of a folder's files included."""
    damaged: list[str] = field(default_factory=list)
    """Files of the output that the remote has with wrong content."""


def open_repo() -> tuple[Any, str, str]:
    """Return DVC's repository of this folder, and name and URL of its default remote, both empty if there is none.

    What comes from the remote will be verified. A remote that was set by hand gets the timeouts that it lacks, too.
    DVC's settings stay as they are.
    Raises RuntimeError, one line, if there is no repository, or the default remote has no section.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo()
        name = str(repo.config["core"].get("remote", ""))
        section = repo.config["remote"].get(name, {})
        if not name:
            return repo, "", ""
        if "url" not in section:
            raise RuntimeError(
                f"remote {name} is the default in .dvc/config, which has no such remote; {settings.HINT}"
            )
        repo.close()
        kind = settings.KINDS.get(settings.scheme_of(section["url"]))
        timeouts_s = kind.timeouts_s if kind else {}
        lacking = {key: value for key, value in timeouts_s.items() if key not in section}
        # Given to the repository, which reads its settings again and again.
        return Repo(config={"remote": {name: {**lacking, "verify": True}}}), name, str(section["url"])
    except NotDvcRepoError as error:
        raise RuntimeError(
            f"{Path.cwd()} is no clone of the project: it has no .dvc; run the command in one"
        ) from error
    except DvcException as error:
        raise RuntimeError(f"DVC can't be used here: {' '.join(str(error).split())}") from error


def missing(repo: Any) -> list[Missing]:
    """Return the outputs that dvc.lock or a .dvc file names and this workspace's cache lacks, whole or in part."""
    found = []
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info or not out.changed_cache():
            continue
        item = Missing(str(out), out.stage.addressing)
        item.oids = [oid for oid, _ in objects(repo, out) if not repo.cache.local.exists(oid)]
        found.append(item)
    return found


def objects(repo: Any, out: Any) -> Iterable[tuple[str, str]]:
    """Yield hash and path of an output's objects: its own, then those of a folder's files where its list is here."""
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    yield out.hash_info.value, str(out)
    if not out.hash_info.isdir:
        return
    try:
        tree = Tree.load(repo.cache.local, out.hash_info)
    except (FileNotFoundError, ObjectFormatError):
        return
    for key, _, info in tree:
        yield info.value, "/".join((str(out), *key))


def find_damaged(repo: Any, items: list[Missing], name: str, refused: set[str]) -> None:
    """Fill in `damaged`: files whose object the remote has and that is missing here, or was `refused` on the way."""
    odb = repo.cloud.get_remote(name).odb
    wanted = {oid for item in items for oid in item.oids} - refused
    damaged = refused | {oid for oid in wanted if odb.fs.exists(odb.oid_to_path(oid))}
    outs = {str(out): out for out in repo.index.outs}
    for item in items:
        item.damaged = [path for oid, path in objects(repo, outs[item.path]) if oid in damaged & set(item.oids)]


def shown(items: Iterable[str]) -> str:
    """Return names for a message, the first MAX_SHOWN of them."""
    names = list(dict.fromkeys(items))
    more = [f"and {len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []
    return ", ".join(names[:MAX_SHOWN] + more)


def replace(repo: Any, paths: list[str], name: str, url: str) -> int:
    """Upload all objects of some outputs again, over what the remote has; return their number.

    Raises ValueError for a path that is no output, and RuntimeError for one that is not whole here.
    """
    outs = {str(out): out for out in repo.index.outs if out.use_cache}
    with connection.talking(name, url):
        odb = repo.cloud.get_remote(name).odb
    count = 0
    for path in paths:
        out = outs.get(path.rstrip("/"))
        if out is None:
            raise ValueError(f"--replace: found {path}, expected an output of dvc.yaml, one of {shown(outs)}")
        local = repo.cache.local
        # Its own hash is not trusted: the content is hashed again.
        if out.changed_cache() or any(not _whole(local, oid) for oid, _ in objects(repo, out)):
            raise RuntimeError(f"{path} is not whole here; run `make all` or `make pull`, then push it again")
        oids = [oid for oid, _ in objects(repo, out)][::-1]
        with connection.talking(name, url):
            odb.add([local.oid_to_path(oid) for oid in oids], local.fs, oids, check_exists=False, verify=False)
        count += len(oids)
    return count


def _whole(odb: Any, oid: str) -> bool:
    from dvc_data.hashfile.hash import hash_file

    _, found = hash_file(odb.oid_to_path(oid), odb.fs, "md5")
    return bool(found.value == oid.split(".")[0])
