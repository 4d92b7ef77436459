"""Errors of remotes, of five libraries and the system, as one line: which remote, which path, what to do."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from stages.foundation import files
from stages.remotes import settings


@dataclass(frozen=True)
class Cause:
    """A cause, and by which signs of an exception it is known."""

    found: str
    fix: str
    """{extra}, {url} and {host} stand for the remote's."""
    names: tuple[str, ...] = ()
    """Names of exception classes, or of their bases."""
    codes: tuple[str, ...] = ()
    """Codes of S3, and HTTP statuses."""
    errnos: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    """Pieces of messages, in small letters."""


CAUSES = [
    Cause(
        "DVC's plugin for it is not installed",
        "run `make env`, which installs what the remotes in .dvc/config need, or `make env EXTRAS={extra}`",
        names=("RemoteMissingDepsError",),
    ),
    Cause(
        "the disk or the quota there is full",
        "make room there, then run the command again; what has arrived stays",
        codes=("507", "XMinioStorageFull", "QuotaExceeded", "QuotaExceededException", "EntityTooLarge"),
        names=("SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded"),
        errnos=(errno.ENOSPC, errno.EDQUOT),
        texts=("no space left", "quota exceeded", "storage full"),
    ),
    Cause(
        "the file system there is read-only",
        "mount it for writing, or ask whoever runs it",
        names=("SFTPWriteProtect",),
        errnos=(errno.EROFS,),
        texts=("read-only file system",),
    ),
    Cause(
        "the bucket or folder does not exist",
        "correct the URL, or create it there first",
        codes=("NoSuchBucket", "ContainerNotFound", "NoSuchKey", "404"),
        names=("SFTPNoSuchFile", "SFTPNoSuchPath", "FileNotFoundError", "ResourceNotFoundError", "NotADirectoryError"),
        errnos=(errno.ENOENT, errno.ENOTDIR),
    ),
    Cause(
        "no key was found",
        "give one as your cloud's tools take it (for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws), or "
        "store it here: make remote URL={url} ARGS='--set access_key_id=- --set secret_access_key=-'",
        names=("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError"),
        texts=("unable to locate credentials", "no credentials"),
    ),
    Cause(
        "the key or password is wrong or has expired",
        "correct it in the environment, in ~/.aws or in .dvc/config.local, or store another: make remote URL={url} "
        "ARGS='--set KEY=-'",
        codes=(
            "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException",
            "ExpiredToken", "InvalidToken", "AuthFailure", "InvalidAuthenticationInfo", "AuthenticationFailed", "401",
        ),
        names=("RefreshError", "ClientAuthenticationError", "InvalidCredentials"),
    ),
    Cause(
        "the server refuses this user's key or password",
        "load your key (ssh-add), name it and the user (make remote URL={url} ARGS='--set keyfile=FILE --set "
        "user=NAME'), and try `ssh {host}`",
        names=("PermissionDenied", "KeyImportError", "KeyEncryptionError"),
    ),
    Cause(
        "it is in another region, or not by this address",
        "give the region or the address: make remote URL={url} ARGS='--set region=REGION --set endpointurl=ADDRESS'",
        codes=("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    ),
    Cause(
        "this user may not do that there",
        "ask whoever runs it for the right to read, and to write for `make push`; a wrong key looks the same on some "
        "servers",
        codes=("AccessDenied", "AllAccessDisabled", "403", "Forbidden", "AuthorizationPermissionMismatch"),
        names=("SFTPPermissionDenied", "ObjectDBPermissionError", "PermissionError"),
        errnos=(errno.EACCES, errno.EPERM),
    ),
    Cause(
        "no host of that name",
        "correct the URL, or see whether this machine has a network and a name server",
        names=("gaierror", "ClientConnectorDNSError"),
        texts=("name or service not known", "temporary failure in name resolution", "nodename nor servname",
               "no address associated with hostname"),
    ),
    Cause(
        "it can't be reached, or the connection was lost",
        "see whether the server runs and this machine has a network, then run the command again; it goes on where "
        "it stopped",
        codes=("503", "502", "504", "SlowDown", "ServiceUnavailable", "RequestTimeout"),
        names=(
            "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
            "HTTPClientError", "ClientConnectionError", "ServerDisconnectedError", "ConnectionError", "TimeoutError",
            "FSTimeoutError", "ConnectionLost", "DisconnectError", "SFTPConnectionLost", "SFTPNoConnection",
            "ChannelOpenError", "TransportError", "ServiceRequestError", "ServiceResponseError", "IncompleteRead",
            "EOFError",
        ),
        errnos=(
            errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EPIPE,
        ),
        texts=("connection lost", "connection refused", "connect call failed", "network is unreachable"),
    ),
    Cause(
        "the server could not do it and says no more",
        "see whether its disk is full (df) and whether this user may write there",
        names=("SFTPFailure", "SFTPError"),
    ),
]  # fmt: skip
"""The causes; the first that fits is taken."""


def explain(error: BaseException, name: str, url: str) -> str:
    """Return one line for an error of the remote `name` at `url`: remote, path, cause, what to do.

    An unknown error keeps its own text.
    """
    chain = list(_chain(error))
    own = _line(next((str(e) for e in chain if str(e).strip()), "") or type(error).__name__)
    scheme = settings.scheme_of(url)
    fields = {
        "extra": settings.KINDS[scheme].extra if scheme in settings.KINDS else "NAME",
        "url": url,
        "host": url.partition("://")[2].partition("/")[0] or "HOST",
    }
    for cause in CAUSES:
        if any(_fits(cause, e) for e in chain):
            return f"remote {name}, {url}: {cause.found} ({own}); {cause.fix.format(**fields)}"
    return f"remote {name}, {url}: {own}; correct that, or set another: make remote URL=..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it came from, the last first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _fits(cause: Cause, error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & set(cause.names) or _codes(error) & set(cause.codes):
        return True
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).lower()
    return (number is not None and number in cause.errnos) or any(piece in text for piece in cause.texts)


def _codes(error: BaseException) -> set[str]:
    """Codes of an error of S3 (botocore's `response`) or of HTTP (httpx, aiohttp, Azure's and Google's clients)."""
    response = getattr(error, "response", None)
    found = [getattr(error, key, None) for key in ("status_code", "status", "code", "error_code")]
    if isinstance(response, dict):
        found.append(response.get("Error", {}).get("Code"))
    elif response is not None:
        found.append(getattr(response, "status_code", None))
    return {str(code) for code in found if isinstance(code, (str, int))}


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return files.printable(lines[0]) if lines else ""
