"""The shared remote in DVC's settings: .dvc/config, which git has, and .dvc/config.local, which stays here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from stages.foundation import files

NAME = "shared"
"""The name that `make remote` gives the remote."""

HINT = (
    "set one that all of you reach: make remote URL=s3://BUCKET/FOLDER, or ssh://, gs://, azure://, webdavs://, "
    "or an absolute path"
)


@dataclass(frozen=True)
class Kind:
    """A kind of remote."""

    extra: str
    """Extra of pyproject.toml with DVC's plugin for it. Empty: part of DVC."""
    module: str
    """The plugin's module."""
    timeouts_s: dict[str, int]
    """Options of DVC that limit how long it waits, in seconds. Without them DVC waits up to half an hour (ssh)."""


KINDS = {
    "": Kind("", "dvc", {}),
    "s3": Kind("s3", "dvc_s3", {"connect_timeout": 10, "read_timeout": 60}),
    "gs": Kind("gs", "dvc_gs", {}),
    "azure": Kind("azure", "dvc_azure", {"connection_timeout": 10, "read_timeout": 60}),
    "ssh": Kind("ssh", "dvc_ssh", {"timeout": 30}),
    "webdav": Kind("webdav", "dvc_webdav", {"timeout": 60}),
    "webdavs": Kind("webdav", "dvc_webdav", {"timeout": 60}),
}
"""Scheme of a URL -> kind. A path has no scheme."""

SECRETS = (
    "access_key_id", "account_key", "client_secret", "connection_string", "custom_auth_header", "passphrase",
    "password", "sas_token", "secret_access_key", "session_token", "sse_customer_key", "token",
)  # fmt: skip
"""Options of DVC that are secrets."""
PERSONAL = ("cert_path", "configpath", "credentialpath", "key_path", "keyfile", "profile", "user")
"""Options that differ from one member of a team to the next."""


@dataclass(frozen=True)
class Remote:
    """A remote as a user describes it."""

    url: str
    scheme: str
    shared: dict[str, str]
    """Options for .dvc/config."""
    private: dict[str, str]
    """Options for .dvc/config.local."""

    @property
    def kind(self) -> Kind:
        """Extra, module and timeouts of its scheme."""
        return KINDS[self.scheme]


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, or an empty text for a path."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and scheme.lower() != "file" else ""


def parse(url: str, options: Iterable[str], project: Path) -> Remote:
    """Return the remote that a URL and options of the form KEY=VALUE describe.

    A password in the URL goes to the private options. Raises ValueError with the fix for what can't be a shared remote:
    no URL, an unknown scheme, no host or bucket, a key or signature in it, a path inside the folder `project`.
    """
    if not url.strip():
        raise ValueError(f"URL is empty; {HINT}")
    scheme = scheme_of(url)
    if scheme not in KINDS:
        better = "; for a WebDAV server write webdavs:// in place of https://" if scheme in ("http", "https") else ""
        known = ", ".join(f"{name}://" for name in KINDS if name)
        raise ValueError(f"URL: found the scheme {scheme}://, expected one of {known}, or a path{better}")
    if files.printable(url) != url:
        raise ValueError(f"URL: found a character that can't be printed in {files.printable(url)}; remove it")
    private: dict[str, str] = {}
    url = _without_password(url, scheme, private) if scheme else str(_folder(url.removeprefix("file://"), project))
    shared: dict[str, str] = {}
    for option in options:
        key, found, value = option.partition("=")
        if not found or not key:
            raise ValueError(f"--set: found {key!r}, expected KEY=VALUE, such as endpointurl=https://minio.lan:9000")
        (private if key in (*SECRETS, *PERSONAL) else shared)[key] = value
    return Remote(url, scheme, shared, private)


def _without_password(url: str, scheme: str, private: dict[str, str]) -> str:
    parts = urlsplit(url)
    who, _, host = parts.netloc.rpartition("@")
    shown = urlunsplit((scheme, host, parts.path, "", ""))
    if not host:
        raise ValueError(f"URL: found no host or bucket in {shown}, expected {scheme}://NAME/FOLDER")
    if parts.query or parts.fragment:
        raise ValueError(
            f"URL: found ? or # after {shown}; leave out what follows, and give keys by ARGS='--set KEY=-'"
        )
    user, found, password = who.partition(":")
    if scheme in ("s3", "gs", "azure") and who:
        raise ValueError(
            f"URL: found a key before @{host}, which git would keep for all to read; use {shown} and give the key as "
            "your cloud's tools do (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or by ARGS='--set KEY=-'"
        )
    if found:
        private["password"] = unquote(password)
    if user and scheme != "ssh":
        private["user"] = unquote(user)
        user = ""
    return urlunsplit((scheme, f"{user}@{host}" if user else host, parts.path.rstrip("/") or "/", "", ""))


def _folder(text: str, project: Path) -> Path:
    path = Path(text).expanduser().resolve()
    if path.is_relative_to(project.resolve()):
        raise ValueError(
            f"URL: {path} lies in this clone, where nobody else finds it; give a folder that all of you reach, such as "
            "one on a network file system"
        )
    return path


def full(remote: Remote, former: dict[str, Any]) -> dict[str, Any]:
    """Return the shared options of a remote: those of `former` if its URL is the same, verification and timeouts."""
    kept = former if former.get("url") == remote.url else {}
    return {**remote.kind.timeouts_s, **kept, **remote.shared, "url": remote.url, "verify": True}


def write(dvc: Path, remote: Remote, name: str = NAME) -> list[str]:
    """Write the remote and make it the default; return what was done, one line each. The same again changes nothing.

    A remote of another URL loses its options in both files. Raises DVC's ConfigError for an option that DVC lacks.
    """
    from dvc.config import Config

    config = Config(str(dvc))
    shared_file, private_file = dvc / "config", dvc / "config.local"
    former = _level(config, "repo", name)
    same = former.get("url") == remote.url
    private = {**({k: v for k, v in _level(config, "local", name).items() if k != "url"} if same else {})}
    private.update(remote.private)
    lines = [f"remote {name}: {remote.url} in {shared_file}, the default; commit that file"]
    if private_file.exists() or private:
        with config.edit("local", validate=False) as level:
            if level.get("core", {}).pop("remote", name) != name:
                lines.append(f"removed another default remote from {private_file}")
            level.setdefault("remote", {}).pop(name, None)
            if private:
                level["remote"][name] = private
            if not level.get("core", True):
                del level["core"]
        private_file.chmod(0o600)
    with config.edit("repo") as level:
        level.setdefault("remote", {})[name] = full(remote, former)
        level.setdefault("core", {})["remote"] = name
    if remote.private:
        lines.append(
            f"{', '.join(sorted(remote.private))}: in {private_file}, which git ignores; not in the other file"
        )
    return lines


def merged(dvc: Path, remote: Remote, name: str = NAME) -> dict[str, Any]:
    """Return all the options that the remote would have once it is written."""
    from dvc.config import Config

    config = Config(str(dvc), validate=False)
    former = _level(config, "repo", name)
    local = _level(config, "local", name) if former.get("url") == remote.url else {}
    return {**full(remote, former), **{k: v for k, v in local.items() if k != "url"}, **remote.private}


def _level(config: Any, level: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = config.load_one(level).get("remote", {}).get(name, {})
    return dict(found)
