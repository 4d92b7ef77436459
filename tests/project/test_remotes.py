"""make remote, push and pull with real servers on loopback, from one clone to another."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, run
from tests.support import servers

PIPELINE = """
stages:
  convert:
    cmd: python make.py data/coco 3 1000
    deps: [make.py]
    outs: [data/coco]
  train:
    cmd: python make.py data/checkpoint 2 200000
    deps: [make.py, data/coco]
    outs: [data/checkpoint]
  precision:
    cmd: python make.py data/onnx 1 5000
    deps: [make.py, data/checkpoint]
    outs: [data/onnx]
"""
MAKE = """
import random, sys
from pathlib import Path
folder, files, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(folder / "part").mkdir(parents=True)
for i in range(files):
    (folder / "part" / f"file{i}.bin").write_bytes(random.Random(f"{folder} {i}").randbytes(size))
"""
OUTS = ("data/checkpoint", "data/coco", "data/onnx")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a small pipeline with our settings of DVC, built."""
    folder = tmp_path_factory.mktemp("built") / "clone"
    folder.mkdir()
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert run(*command, cwd=folder).returncode == 0
    # Not Hydra's composition, whose conf/ is not here.
    settings = (REPO / ".dvc/config").read_text().partition("[hydra]")[0]
    (folder / ".dvc/config").write_text(settings)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "make.py").write_text(MAKE)
    done = run("dvc", "repro", "-q", cwd=folder)
    assert done.returncode == 0, done.stderr
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    assert run("git", "add", "-A", cwd=folder).returncode == 0
    done = run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "state", cwd=folder)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def first(built: Path, tmp_path: Path) -> Path:
    """A clone that has the artifacts."""
    return shutil.copytree(built, tmp_path / "first", symlinks=True)


def clone(folder: Path, name: str = "second") -> Path:
    """A fresh clone of what `folder` has in git, which it is committed to before."""
    if run("git", "status", "--porcelain", cwd=folder).stdout:
        commit(folder)
    out = folder.parent / name
    assert run("git", "clone", "-q", str(folder), str(out), cwd=folder.parent).returncode == 0
    return out


def tool(name: str, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`make NAME` without make, in a folder that is no whole clone of the project."""
    nobody = folder.parent / "no-aws-config"
    nobody.touch()
    quiet = {"AWS_CONFIG_FILE": str(nobody), "AWS_SHARED_CREDENTIALS_FILE": str(nobody)}
    clean = {**quiet, "AWS_EC2_METADATA_DISABLED": "true", "SSH_AUTH_SOCK": "", "PYTHONPATH": str(REPO), **env}
    done = run(sys.executable, "-m", f"stages.commands.{name}", *arguments, cwd=folder, **clean)
    assert "Traceback" not in done.stderr
    return done


def one_line(done: subprocess.CompletedProcess[str], *pieces: str) -> None:
    """The command failed and said so in one line, with these pieces."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for piece in pieces:
        assert piece in lines[0]


def same(one: Path, other: Path) -> bool:
    found = [
        {str(p.relative_to(folder)): p.read_bytes() for out in OUTS for p in (folder / out).rglob("*") if p.is_file()}
        for folder in (one, other)
    ]
    return found[0] == found[1] and len(found[0]) == 6


def settings(folder: Path) -> tuple[str, str]:
    local = folder / ".dvc/config.local"
    return (folder / ".dvc/config").read_text(), local.read_text() if local.exists() else ""


@pytest.fixture(scope="module")
def s3() -> Iterator[servers.S3]:
    server = servers.S3()
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Ssh]:
    server = servers.Ssh(tmp_path_factory.mktemp("ssh"))
    server.start()
    yield server
    server.kill()


def set_s3(server: servers.S3, folder: Path, prefix: str, user: str = "writer") -> subprocess.CompletedProcess[str]:
    options = ("--set", f"endpointurl={server.url}", "--set", "region=us-east-1")
    return tool("remote", folder, "--url", f"s3://{servers.BUCKET}/{prefix}", *options, **server.variables(user))


def set_ssh(server: servers.Ssh, folder: Path, place: Path, key: str = "key") -> subprocess.CompletedProcess[str]:
    return tool("remote", folder, "--url", server.url(place), "--set", f"keyfile={server.folder / key}")


def test_without_a_remote(first: Path, tmp_path: Path) -> None:
    one_line(tool("push", first), "no shared remote is set", "make remote URL=s3://BUCKET/FOLDER")
    done = tool("pull", first)
    assert (done.returncode, "nothing is missing here" in done.stdout) == (0, True)
    fresh = clone(first)
    one_line(
        tool("pull", fresh), "no shared remote is set", "data/checkpoint (train)", "data/coco (convert)",
        "`make all` builds them", "make remote URL=s3://BUCKET/FOLDER",
    )  # fmt: skip


def test_the_repository_names_no_remote_of_its_own() -> None:
    done = run("git", "grep", "-n", "remote =", "--", ".dvc/config", cwd=REPO)
    assert done.stdout == ""


def test_s3_from_clone_to_clone(s3: servers.S3, first: Path) -> None:
    done = set_s3(s3, first, "a folder")
    assert done.returncode == 0, done.stderr
    assert "tested: an object was written there, read and removed" in done.stdout
    assert not [key for key in s3.objects() if key.startswith("a folder")]
    shared, local = settings(first)
    assert "verify = true" in shared.lower()
    assert "connect_timeout = 10" in shared
    assert "read_timeout = 60" in shared
    assert local == ""
    again = set_s3(s3, first, "a folder")
    assert (again.stdout, settings(first)) == (done.stdout, (shared, local))
    assert tool("push", first, **s3.variables("writer")).returncode == 0
    assert any(key.startswith("a folder/runs/") for key in s3.objects()), "the run cache"
    second = clone(first)
    pulled = tool("pull", second, **s3.variables("reader"))
    assert pulled.returncode == 0, pulled.stderr
    assert same(first, second)
    # From the run cache, with nothing in the lock and in the workspace.
    (second / "dvc.lock").unlink()
    done = run("dvc", "repro", cwd=second)
    assert done.stdout.count("is cached - skipping run") == 3, done.stdout


def test_keys_of_s3(s3: servers.S3, first: Path) -> None:
    before = settings(first)
    url = f"s3://{servers.BUCKET}/keys"
    options = ("--url", url, "--set", f"endpointurl={s3.url}", "--set", "region=us-east-1")
    key, secret = s3.keys["writer"]
    one_line(tool("remote", first, *options), "remote shared", url, "no key was found", "AWS_ACCESS_KEY_ID")
    for pair in ((key, "x" * 40), ("AKIAXXXXXXXXXXXXXXXX", secret)):  # pragma: allowlist secret
        wrong = {"AWS_ACCESS_KEY_ID": pair[0], "AWS_SECRET_ACCESS_KEY": pair[1]}
        one_line(
            tool("remote", first, *options, **wrong), "remote shared", url, "key or password is wrong", "ARGS='--set"
        )
    one_line(
        tool("remote", first, *options, **s3.variables("reader")), "remote shared", url, "may not do that", "make push"
    )
    elsewhere = tool("remote", first, "--url", "s3://nowhere/x", *options[2:], **s3.variables("writer"))
    one_line(elsewhere, "s3://nowhere/x", "bucket or folder does not exist", "create it")
    assert settings(first) == before
    done = tool("remote", first, *options, "--set", f"access_key_id={key}", "--set", f"secret_access_key={secret}")
    assert done.returncode == 0, done.stderr
    shared, local = settings(first)
    assert key not in shared + done.stdout
    assert secret not in shared + done.stdout
    assert secret in local
    assert (first / ".dvc/config.local").stat().st_mode & 0o077 == 0
    assert "config.local" not in run("git", "status", "--porcelain", "-uall", cwd=first).stdout
    assert tool("push", first).returncode == 0
    # Another URL doesn't inherit the keys of this one.
    place = first.parent / "disk"
    place.mkdir()
    assert tool("remote", first, "--url", str(place)).returncode == 0
    assert secret not in "".join(settings(first))


def test_a_reader_can_pull_and_not_push(s3: servers.S3, first: Path) -> None:
    assert set_s3(s3, first, "rights").returncode == 0
    one_line(tool("push", first, **s3.variables("reader")), "remote shared", "/rights", "may not do that")


def truncate(server: servers.S3, folder: Path, prefix: str, out: str, list_: bool) -> None:
    """Cut an object of an output on the server to half: the list of the folder's files, or one of the files."""
    client = server.client("s3", server.keys["writer"])
    md5 = re.search(rf"path: {out}\n +hash: md5\n +md5: (\w+\.dir)", (folder / "dvc.lock").read_text())[1]
    if not list_:
        listed = (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_text()
        md5 = re.search(r'"md5": "(\w+)"', listed)[1]
    key = f"{prefix}/files/md5/{md5[:2]}/{md5[2:]}"
    whole = client.get_object(Bucket=servers.BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=servers.BUCKET, Key=key, Body=whole[: len(whole) // 2])


@pytest.mark.parametrize("list_", [False, True])
def test_a_truncated_object_is_refused(s3: servers.S3, first: Path, list_: bool) -> None:
    prefix = f"cut {list_}"
    cut = OUTS[:1] if list_ else OUTS
    assert set_s3(s3, first, prefix).returncode == 0
    assert tool("push", first, **s3.variables("writer")).returncode == 0
    for out in cut:
        truncate(s3, first, prefix, out, list_)
    second = clone(first)
    done = tool("pull", second, **s3.variables("reader"))
    assert done.returncode == 1
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == len(cut), done.stderr
    for line, out in zip(lines, cut, strict=True):
        name = out if list_ else f"{out}/part/file0.bin"
        assert f"{prefix}: damaged there, refused: {name}; where {out} is whole" in line
        assert f"make push ARGS='--replace {out}'" in line
        assert not list((second / out).rglob("file0.bin"))
    assert all(len(list((second / out).rglob("*.bin"))) for out in OUTS if out not in cut), "the others are there"
    # The command that the message gives.
    assert tool("push", first, "--replace", *cut, **s3.variables("writer")).returncode == 0
    done = tool("pull", second, **s3.variables("reader"))
    assert done.returncode == 0, done.stderr
    assert same(first, second)


def test_a_remote_that_was_set_by_hand_is_verified_too(first: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    assert run("dvc", "remote", "add", "-d", "mine", str(place), cwd=first).returncode == 0
    assert tool("push", first).returncode == 0
    for path in place.rglob("files/md5/*/*"):
        if path.stat().st_size == 200000:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:100])
    one_line(tool("pull", clone(first)), "remote mine", "damaged there", "data/checkpoint/part/file0.bin")


def test_what_the_remote_lacks(first: Path, tmp_path: Path) -> None:
    place = tmp_path / "a disk"
    place.mkdir()
    assert tool("remote", first, "--url", str(place)).returncode == 0
    assert run("dvc", "push", "-q", "convert", cwd=first).returncode == 0
    second = clone(first)
    one_line(
        tool("pull", second), f"remote shared, {place}", "lacks 2 outputs", "data/checkpoint (train)",
        "data/onnx (precision)", "`make all` builds them",
    )  # fmt: skip
    assert len(list((second / "data/coco").rglob("*.bin"))) == 3
    one_line(tool("push", second), "neither there nor here", "data/checkpoint (train)", "make all")


def test_a_server_that_is_killed_mid_push(first: Path, tmp_path: Path) -> None:
    """The push ends with one line, though hundreds of objects are left, and the next one completes."""
    server = servers.S3()
    server.start()
    try:
        (first / "data/raw").mkdir()
        for i in range(400):
            (first / f"data/raw/{i}.bin").write_bytes(os.urandom(2000))
        assert run("dvc", "add", "-q", "data/raw", cwd=first).returncode == 0
        assert set_s3(server, first, "kill").returncode == 0
        env = {**os.environ, "PYTHONPATH": str(REPO), **server.variables("writer")}
        push = subprocess.Popen(
            [sys.executable, "-m", "stages.commands.push"], cwd=first, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while len(server.objects()) < 20:
            assert push.poll() is None, "the push was faster than this test"
            time.sleep(0.1)
        server.kill()
        out, err = push.communicate(timeout=120)
        one_line(
            subprocess.CompletedProcess([], push.returncode, out, err), "remote shared", f"s3://{servers.BUCKET}/kill",
            "connection was lost", "goes on where it stopped",
        )  # fmt: skip
        second = clone(first)
        one_line(tool("pull", second, **server.variables("writer")), "remote shared", "it can't be reached")
        server.start()
        assert tool("push", first, **server.variables("writer")).returncode == 0
        assert tool("pull", second, **server.variables("reader")).returncode == 0
        assert len(list((second / "data/raw").iterdir())) == 400
    finally:
        server.kill()


def test_ssh_from_clone_to_clone(ssh: servers.Ssh, first: Path, tmp_path: Path) -> None:
    place = tmp_path / "our team's disk"
    before = settings(first)
    one_line(set_ssh(ssh, first, place), "remote shared", str(place), "folder does not exist", "create it")
    place.mkdir()
    one_line(set_ssh(ssh, first, place, key="stranger"), "remote shared", "refuses this user's key", "ssh-add")
    assert settings(first) == before
    done = set_ssh(ssh, first, place)
    assert done.returncode == 0, done.stderr
    assert not list(place.rglob("*")), "no probe is left"
    shared, local = settings(first)
    assert ("timeout = 30" in shared, "keyfile" in shared, "keyfile" in local) == (True, False, True)
    assert tool("push", first).returncode == 0
    second = clone(first)
    shutil.copy(first / ".dvc/config.local", second / ".dvc/config.local")
    done = tool("pull", second)
    assert done.returncode == 0, done.stderr
    assert same(first, second)
    assert list((second / ".dvc/cache/runs").rglob("*"))


@pytest.mark.slow
def test_ssh_that_is_killed_mid_push(tmp_path: Path, first: Path) -> None:
    server, place = servers.Ssh(tmp_path / "ssh"), tmp_path / "disk"
    place.mkdir()
    server.start()
    try:
        (first / "data/raw").mkdir()
        for i in range(500):
            (first / f"data/raw/{i}.bin").write_bytes(os.urandom(100_000))
        assert run("dvc", "add", "-q", "data/raw", cwd=first).returncode == 0
        done = set_ssh(server, first, place)
        assert done.returncode == 0, done.stderr
        push = subprocess.Popen(
            [sys.executable, "-m", "stages.commands.push"], cwd=first, env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while len(list(place.glob("files/md5/*/*"))) < 20:
            assert push.poll() is None, "the push was faster than this test"
            time.sleep(0.05)
        server.kill()
        out, err = push.communicate(timeout=120)
        one_line(
            subprocess.CompletedProcess([], push.returncode, out, err),
            "remote shared",
            str(place),
            "connection was lost",
        )
        server.start()
        done = tool("push", first)
        assert done.returncode == 0, done.stderr
        second = clone(first)
        shutil.copy(first / ".dvc/config.local", second / ".dvc/config.local")
        assert tool("pull", second).returncode == 0
        assert same(first, second)
    finally:
        server.kill()


def test_ssh_that_may_be_read_only(tmp_path: Path, first: Path) -> None:
    server = servers.Ssh(tmp_path / "ssh", read_only=True)
    server.start()
    try:
        one_line(set_ssh(server, first, tmp_path), "remote shared", str(tmp_path), "may not do that", "make push")
    finally:
        server.kill()


@pytest.mark.parametrize("kind", ["s3", "ssh"])
def test_a_server_that_stops_answering(tmp_path: Path, first: Path, kind: str) -> None:
    """Stopped, as a machine whose network is gone: it takes connections, and never answers."""
    server = servers.S3() if kind == "s3" else servers.Ssh(tmp_path / "ssh")
    code = (
        "from stages.commands import push; from stages.foundation import command_line\n"
        "from stages.remotes import watchdog\n"
        "watchdog.STALL_S = 4; command_line.run(push.main)"
    )
    server.start()
    try:
        if isinstance(server, servers.S3):
            assert set_s3(server, first, "hang").returncode == 0
            env = server.variables("writer")
        else:
            assert set_ssh(server, first, tmp_path).returncode == 0
            env = {}
        os.killpg(server.process.pid, signal.SIGSTOP)
        done = run(sys.executable, "-c", code, cwd=first, PYTHONPATH=str(REPO), **env)
        one_line(done, "remote shared", "it can't be reached, or the connection was lost", "run the command again")
    finally:
        server.kill()


def test_no_network(first: Path) -> None:
    before = settings(first)
    port = servers.free_port()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    closed = ("--url", "s3://team/x", "--set", f"endpointurl=http://127.0.0.1:{port}")
    one_line(
        tool("remote", first, *closed, **keys), "remote shared", "s3://team/x", "it can't be reached", "server runs"
    )
    one_line(
        tool("remote", first, "--url", f"ssh://127.0.0.1:{port}/x"), f"ssh://127.0.0.1:{port}/x", "can't be reached"
    )
    one_line(
        tool("remote", first, "--url", "ssh://nowhere.invalid/x"), "ssh://nowhere.invalid/x", "no host of that name"
    )
    unknown = ("--url", "s3://team/x", "--set", "endpointurl=http://nowhere.invalid")
    one_line(tool("remote", first, *unknown, **keys), "s3://team/x", "no host of that name")
    assert settings(first) == before


@pytest.mark.parametrize(
    ("state", "message"), [("full", "disk or the quota there is full"), ("ro", "file system there is read-only")]
)
def test_a_disk_that_takes_nothing(first: Path, tmp_path: Path, state: str, message: str) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=8k{',ro' if state == 'ro' else ''} tmpfs '{place}'"
    inside = ("unshare", "--map-root-user", "--mount", "bash", "-c")
    if run(*inside, mount, cwd=tmp_path).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare)")
    code = f'{mount} && exec "$0" -m stages.commands.remote --url="{place}"'
    done = run(*inside, code, sys.executable, cwd=first, PYTHONPATH=str(REPO))
    one_line(done, f"remote shared, {place}", message)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "URL is empty; set one"),
        ("https://example.org/x", "write webdavs://"),
        ("ftp://example.org/x", "expected one of s3://"),
        ("s3://", "no host or bucket"),
        ("s3://AKIAKEY:hunter2@team/x", "found a key before @team"),  # pragma: allowlist secret
        ("azure://container/x?sig=hunter2", "found ? or #"),
        ("inside", "lies in this clone"),
        ("/nowhere/at all", "folder does not exist"),
    ],
)
def test_a_url_that_can_be_no_remote(first: Path, url: str, message: str) -> None:
    before = settings(first)
    done = tool("remote", first, "--url", url)
    one_line(done, message)
    assert "hunter2" not in done.stdout + done.stderr
    assert settings(first) == before


def test_a_password_in_the_url_stays_on_this_machine(first: Path) -> None:
    from stages.remotes import settings as remotes

    remote = remotes.parse("webdavs://ann:hunt%232@dav.lan/team", [], first)
    assert remote.private == {"user": "ann", "password": "hunt#2"}  # pragma: allowlist secret
    remotes.write(first / ".dvc", remote)
    shared, local = settings(first)
    assert "url = webdavs://dav.lan/team" in shared
    assert "hunt" not in shared
    assert "hunt#2" in local
