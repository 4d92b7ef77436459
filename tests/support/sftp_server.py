"""asyncssh's SFTP server, for machines without sshd: PORT FOLDER [-R], with the keys of servers.Ssh."""

import asyncio
import sys
from pathlib import Path

import asyncssh


class ReadOnly(asyncssh.SFTPServer):
    """Refuses to open a file for writing, as `internal-sftp -R`."""

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if pflags & (asyncssh.FXF_WRITE | asyncssh.FXF_CREAT):
            raise asyncssh.SFTPPermissionDenied("read-only")
        return super().open(path, pflags, attrs)


async def serve(port: int, folder: Path, read_only: bool) -> None:
    await asyncssh.listen(
        "127.0.0.1", port, server_host_keys=[str(folder / "host")], authorized_client_keys=str(folder / "key.pub"),
        sftp_factory=ReadOnly if read_only else True,
    )  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), "-R" in sys.argv))
