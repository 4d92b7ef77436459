"""Talks to a remote through DVC, so that the first failure ends it within a minute, and becomes one line.

DVC 3.67 tries every other object after a failure, and its libraries try each several times: a push to a server that was
killed took minutes to hours.
"""

import logging
import os
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stages.remotes import errors, settings, watchdog

log = logging.getLogger(__name__)

KEEPALIVE_S, KEEPALIVE_COUNT = 15, 3
"""SSH: a server that doesn't answer that many times, at that interval, is given up."""
TRIES = 2
BATCH = "batch_coros"
"""The function of DVC's `generic` module that runs many transfers. It can't stop at the first failure."""
PROBE_BYTES = 1 << 16


class RemoteError(RuntimeError):
    """One line on a remote that failed."""


class _StopError(Exception):
    """Leaves DVC's loops at the first error of a transfer."""


class Log(logging.Handler):
    """DVC's log: raises its first error of a transfer, notes refused objects, prints other warnings as one line."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        """Hashes of objects whose content was another."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of DVC."""
        error = record.exc_info[1] if record.exc_info else None
        if str(record.msg).startswith("corrupted cache file") and isinstance(record.args, tuple):
            # Objects lie at the first two characters of their hash, a slash, and the others.
            self.refused.add("".join(str(record.args[0]).replace(os.sep, "/").split("/")[-2:]))
        if record.levelno >= logging.ERROR and error is not None:
            if type(error).__name__ not in ("FileNotFoundError", "ObjectFormatError", "_StopError"):
                raise _StopError from error
        elif record.levelno >= logging.WARNING and not record.getMessage().startswith("Some of the cache files"):
            log.warning("%s", record.getMessage().splitlines()[0])


@contextmanager
def talking(name: str, url: str) -> Iterator[Log]:
    """Run a block that talks to the remote by DVC; yield DVC's log. Raises RemoteError for the first error.

    FileNotFoundError and damaged objects are left to DVC, which goes on to the next object.
    """
    from dvc.exceptions import DvcException
    from dvc_objects.fs import generic

    original: Callable[..., Coroutine[Any, Any, list[Any]]] = getattr(generic, BATCH)
    failures: list[BaseException] = []

    async def one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        if failures:
            coroutine.close()
            raise failures[0]
        try:
            return await coroutine
        except FileNotFoundError:
            raise
        except Exception as error:
            failures.append(error)
            raise

    async def batch(coroutines: Sequence[Coroutine[Any, Any, Any]], **options: Any) -> list[Any]:
        results: list[Any] = await original([one(c) for c in coroutines], **options)
        return results

    _limit_tries(settings.scheme_of(url))
    handler = Log()
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    states = [(logger, logger.propagate, logger.handlers) for logger in loggers]
    setattr(generic, BATCH, batch)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("dvc_data.hashfile.db").setLevel(logging.DEBUG)
    for library in ("aiobotocore", "asyncssh", "azure", "botocore", "gcsfs", "google", "httpx", "s3fs", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    stalled = errors.explain(TimeoutError("it stopped answering"), name, url)
    try:
        with watchdog.watching(stalled):
            yield handler
    except _StopError as stop:
        raise RemoteError(errors.explain(stop.__cause__ or stop, name, url)) from stop
    except DvcException:
        raise
    except Exception as error:
        raise RemoteError(errors.explain(error, name, url)) from error
    finally:
        setattr(generic, BATCH, original)
        for logger, propagate, handlers in states:
            logger.handlers, logger.propagate = handlers, propagate


def _limit_tries(scheme: str) -> None:
    """Let S3's libraries try a request twice in place of 25 times, and SSH notice a server that is gone."""
    if scheme == "s3":
        os.environ.setdefault("AWS_MAX_ATTEMPTS", str(TRIES))
        try:
            from s3fs import S3FileSystem
        except ImportError:
            return
        S3FileSystem.retries = TRIES
    elif scheme == "ssh":
        try:
            from dvc_ssh import SSHFileSystem
        except ImportError:
            return
        if getattr(SSHFileSystem, "keeps_alive", False):
            return
        prepare = SSHFileSystem._prepare_credentials

        def prepare_and_keep_alive(self: Any, **config: Any) -> dict[str, Any]:
            login: dict[str, Any] = prepare(self, **config)
            return {**login, "keepalive_interval": KEEPALIVE_S, "keepalive_count_max": KEEPALIVE_COUNT}

        SSHFileSystem._prepare_credentials = prepare_and_keep_alive
        SSHFileSystem.keeps_alive = True


def probe(options: dict[str, Any], name: str = settings.NAME) -> None:
    """Write an object to the remote with these options, read it and remove it.

    Raises RemoteError if one of the three fails or the remote's folder does not exist, and DVC's ConfigError for an
    option that DVC lacks.
    """
    url = str(options["url"])
    with talking(name, url):
        from dvc.fs import get_cloud_fs

        kind, config, root = get_cloud_fs({"core": {}, "remote": {name: options}}, name=name)
        fs = kind(**config)
        # Cloud stores have no folders: the first object makes one.
        if settings.scheme_of(url) in ("", "ssh", "webdav", "webdavs") and not fs.isdir(root):
            raise FileNotFoundError(f"no folder {root}")
        objects = fs.join(root, "files", "md5")
        folder = objects if fs.isdir(objects) else root
        path = fs.join(folder, f".probe-{uuid.uuid4().hex}")
        content = os.urandom(PROBE_BYTES)
        try:
            fs.pipe_file(path, content)
            found = fs.cat_file(path)
        except BaseException:
            _remove(fs, path)
            raise
        fs.rm_file(path)
        if found != content:
            raise OSError(f"wrote {len(content)} bytes to {path} and read {len(found)} others")


def _remove(fs: Any, path: str) -> None:
    """Remove what a failed write may have left; another error than the first is of no interest."""
    try:
        if fs.exists(path):
            fs.rm_file(path)
    except Exception as error:
        log.debug("%s: not removed: %s", path, error)
