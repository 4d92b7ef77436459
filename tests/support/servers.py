"""Real servers on loopback for tests of remotes: S3 by moto, SSH by Debian's sshd, else by asyncssh."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncssh
import boto3
import botocore.config

USERS = {"writer": "s3:*", "reader": ["s3:Get*", "s3:List*"]}
BUCKET = "team"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.05)
    raise AssertionError(f"{process.args} does not listen")


class Server:
    """A program that listens on a port of loopback."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        # A group of its own, since sshd has a process for each connection.
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **self.environment()},
        )  # fmt: skip
        wait_for(self.port, self.process)

    def environment(self) -> dict[str, str]:
        return {}

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class S3(Server):
    """moto, which checks signatures and rights (IAM) once bucket and users are made."""

    def command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"INITIAL_NO_AUTH_ACTION_COUNT": str(1 + 3 * len(USERS))}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str, keys: tuple[str, str] = ("none", "none")) -> Any:
        quick = botocore.config.Config(retries={"max_attempts": 1})
        return boto3.client(
            service, endpoint_url=self.url, region_name="us-east-1", config=quick,
            aws_access_key_id=keys[0], aws_secret_access_key=keys[1],
        )  # fmt: skip

    def start(self) -> None:
        """Start with an empty bucket. What a killed server had is lost, for moto keeps it in memory."""
        super().start()
        self.keys = {}
        self.client("s3").create_bucket(Bucket=BUCKET)
        iam = self.client("iam")
        for user, actions in USERS.items():
            iam.create_user(UserName=user)
            key = iam.create_access_key(UserName=user)["AccessKey"]
            self.keys[user] = (key["AccessKeyId"], key["SecretAccessKey"])
            allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            rights = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=rights)

    def variables(self, user: str) -> dict[str, str]:
        key, secret = self.keys[user]
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def objects(self) -> dict[str, int]:
        """Key -> size in bytes."""
        found = self.client("s3", self.keys["writer"]).list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {entry["Key"]: entry["Size"] for entry in found}


class Ssh(Server):
    """An SSH server with SFTP for the current user, who logs in by the key `folder`/key."""

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self.program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        self.read_only = read_only
        folder.mkdir(exist_ok=True)
        for name in ("host", "key", "stranger"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(folder / name)
            key.write_public_key(folder / f"{name}.pub")
            (folder / name).chmod(0o600)

    def command(self) -> list[str]:
        if self.program is None:
            server = Path(__file__).with_name("sftp_server.py")
            return [sys.executable, str(server), str(self.port), str(self.folder), *(["-R"] * self.read_only)]
        # The server's own folder, which a system's start script makes.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/key.pub\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nSubsystem sftp internal-sftp {'-R' * self.read_only}\n"
        )
        return [self.program, "-D", "-e", "-f", str(self.folder / "config")]

    def url(self, folder: Path) -> str:
        return f"ssh://127.0.0.1:{self.port}{folder}"
