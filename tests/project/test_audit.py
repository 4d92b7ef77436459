"""`make audit` by the real uv, against a server of OSV's interface on loopback."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, run

IGNORED = re.findall(
    r"--ignore\S* (\S+)", (REPO / "Makefile").read_text().partition("KNOWN_FINDINGS := ")[2].split("\n")[0]
)
FIXED = "99.0"


class Osv(http.server.BaseHTTPRequestHandler):
    """Has `found`, advisories by the name of a package, each of them for every version, and records `asked`."""

    found: dict[str, str]
    asked: set[tuple[str, str]]
    aliases: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        self.asked.update((each["package"]["name"], each["version"]) for each in queries)
        ids = [self.found.get(each["package"]["name"]) for each in queries]
        self.answer({"results": [{"vulns": [{"id": i, "modified": "2026-01-01T00:00:00Z"}]} if i else {} for i in ids]})

    def do_GET(self) -> None:
        found = self.path.rpartition("/")[2]
        name = next(name for name, advisory in self.found.items() if advisory == found)
        events = [{"introduced": "0"}, {"fixed": FIXED}]
        package = {"name": name, "ecosystem": "PyPI"}
        affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
        self.answer(
            {
                "id": found,
                "modified": "2026-01-01T00:00:00Z",
                "summary": "text",
                "affected": affected,
                "aliases": self.aliases,
            }
        )

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def osv() -> Iterator[http.server.ThreadingHTTPServer]:
    Osv.found, Osv.asked, Osv.aliases = {}, set(), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the lock and an environment that `make` takes for up to date."""
    for name in ("Makefile", "pyproject.toml", "uv.lock", "scripts/env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(REPO / name, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.locked").touch()
    return tmp_path


def audit(project: Path, port: int) -> subprocess.CompletedProcess[str]:
    url = f"ARGS=--service-url http://127.0.0.1:{port} --cache-dir {project}/cache"
    return run("make", "--no-print-directory", "audit", url, cwd=project, NO_PROXY="127.0.0.1")


def test_every_package_of_the_lock_is_looked_up(project: Path, osv: http.server.ThreadingHTTPServer) -> None:
    done = audit(project, osv.server_port)
    assert done.returncode == 0, done.stderr
    locked = re.findall(r'^name = "(.+)"\nversion = "(.+)"', (REPO / "uv.lock").read_text(), re.MULTILINE)
    looked_up = {each for each in locked if each[0] != "vistas2engine"}
    # Two versions of TensorRT are locked, of which one environment has one.
    assert looked_up - Osv.asked <= {each for each in looked_up if each[0].startswith("tensorrt")}
    assert len(Osv.asked) > 290


def test_a_finding_fails(project: Path, osv: http.server.ThreadingHTTPServer) -> None:
    Osv.found = {"pyyaml": "PYSEC-2026-99999"}
    done = audit(project, osv.server_port)
    assert done.returncode != 0
    assert all(word in done.stdout + done.stderr for word in ("pyyaml", "PYSEC-2026-99999", FIXED))


def test_known_findings_pass_until_there_is_a_fix(project: Path, osv: http.server.ThreadingHTTPServer) -> None:
    assert len(IGNORED) == 3
    Osv.found = dict(zip(("setuptools", "torch"), IGNORED[:2], strict=True))
    assert audit(project, osv.server_port).returncode == 0
    Osv.found, Osv.aliases = {"setuptools": "PYSEC-2026-3447"}, IGNORED[:1]
    assert audit(project, osv.server_port).returncode == 0, "by another name"
    Osv.found, Osv.aliases = {"diskcache": IGNORED[2]}, []
    assert audit(project, osv.server_port).returncode != 0


def test_a_server_that_is_not_there_is_no_pass(project: Path, osv: http.server.ThreadingHTTPServer) -> None:
    port = osv.server_port
    osv.server_close()
    done = audit(project, port)
    assert done.returncode != 0
    assert f"127.0.0.1:{port}" in done.stderr


def test_the_page_has_a_reason_for_each_known_finding() -> None:
    page = (REPO / "docs/security.md").read_text()
    assert [finding for finding in IGNORED if f"| {finding}" not in page] == []
