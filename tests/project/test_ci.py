"""Continuous integration and hooks: linted, and the same make targets everywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO, run

GITHUB, GITLAB = REPO / ".github/workflows/ci.yml", REPO / ".gitlab-ci.yml"
CHECKS = {"lint", "check-lock", "test"}


def targets(text: str) -> set[str]:
    """The targets of `make` that a script calls."""
    return set(re.findall(r"\bmake (?:--silent )?([a-z-]+)", text))


def github_scripts() -> str:
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    return "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])


def gitlab_scripts() -> str:
    content = yaml.safe_load(GITLAB.read_text())
    jobs = [job for job in content.values() if isinstance(job, dict) and "script" in job]
    return "\n".join([*content["default"]["before_script"], *(line for job in jobs for line in job["script"])])


def link_environment(folder: Path) -> None:
    """Make this environment the folder's .venv, as new as its lock."""
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv/.locked").unlink(missing_ok=True)
    (folder / ".venv/.locked").touch()


def test_both_services_and_the_script_call_the_same_targets() -> None:
    assert targets(github_scripts()) == targets(gitlab_scripts()) == {"env", "diff", "lint-ci", *CHECKS}
    assert targets((REPO / ".ci/run").read_text()) == CHECKS


@pytest.mark.parametrize("target", sorted({"env", "diff", "lint-ci", *CHECKS}))
def test_the_targets_exist(target: str) -> None:
    done = run("make", "--dry-run", target, cwd=REPO)
    assert done.returncode == 0, done.stderr


def test_the_scripts_of_the_services_give_the_diff(tmp_path: Path) -> None:
    """The very lines of both files, in a clone as they check it out: a branch, and origin/main."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPO).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).exists():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, origin / name)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "start"]):
        assert run(*git, *command, cwd=origin).returncode == 0
    assert run("git", "clone", "-q", str(origin), str(clone), cwd=tmp_path).returncode == 0
    edited = clone / "stages/sample.py"
    edited.write_text(edited.read_text() + "# edited\n")
    link_environment(clone)
    script = next(line for line in github_scripts().splitlines() if "diff > diff.md" in line)
    done = run("bash", "-ec", script, cwd=clone, BASE="origin/main")
    assert done.returncode == 0, done.stderr
    from_github = (clone / "diff.md").read_text()
    assert "code only" in from_github
    script = next(line for line in gitlab_scripts().splitlines() if "tee diff.md" in line)
    done = run("bash", "-ec", script, cwd=clone, CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main")
    assert done.returncode == 0, done.stderr
    assert (clone / "diff.md").read_text() == done.stdout == from_github


def test_the_files_of_both_services_are_linted() -> None:
    """The commands of `make lint-ci` but the last, actionlint, which isn't on PyPI as a whole."""
    lines = run("make", "--dry-run", "lint-ci", cwd=REPO).stdout.splitlines()
    commands = [line for line in lines if line.startswith(("check-jsonschema ", "zizmor "))]
    assert len(commands) == 4
    assert "actionlint" in lines[-1]
    for command in commands:
        done = run("bash", "-c", command, cwd=REPO)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on PATH")
def test_actionlint() -> None:
    done = run("actionlint", str(GITHUB), cwd=REPO)
    assert done.returncode == 0, done.stdout


def test_only_the_job_without_code_may_write() -> None:
    content = yaml.safe_load(GITHUB.read_text())
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        scripts = "\n".join(step.get("run", "") for step in job["steps"])
        may_write = "write" in job["permissions"].values()
        assert may_write == (name == "comment")
        assert not (may_write and (targets(scripts) or "actions/checkout" in str(job["steps"])))


def test_renovate_names_packages_that_are_pinned() -> None:
    listed = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    known = {re.split(r"[=<>\[ ;]", each)[0] for each in listed} | {"python"}
    rules = json.loads((REPO / "renovate.json").read_text())["packageRules"]
    named = [name for rule in rules for name in rule.get("matchPackageNames", []) if not name.startswith("/")]
    assert len(named) == len(set(named))
    assert set(named) <= known
    pinned = {each.partition("==")[0] for each in listed if "==" in each}
    assert pinned - {"pycocotools"} <= set(named), "a pinned package belongs to a group"


KEYS = {
    "a private key": ("key.pem", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIB\n"),
    "an AWS key": ("notes.txt", "AKIA" + "QYLPMN5HHHFPZAM2\n"),
    "a remote's secret": (".dvc/config", "['remote \"a\"']\n    secret_access" + "_key = abcdefgh\n"),
    "a remote's password": (".dvc/config", "['remote \"a\"']\n    url = webdavs://me:geheim" + "@host/x\n"),
    "a token of NGC": ("conf/a.yaml", "key: nvapi" + "-" + "a1B2" * 16 + "\n"),
    "a token of Hugging Face": ("a.py", "x = 'hf" + "_" + "a1B2" * 9 + "'\n"),
    "a password": ("a.py", "password = 'correct" + "-horse-battery'\n"),
}


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with our hooks installed, and this environment as its .venv."""
    folder = tmp_path_factory.mktemp("hooked") / "repository"
    folder.mkdir()
    shutil.copy(REPO / ".pre-commit-config.yaml", folder)
    link_environment(folder)
    (folder / ".gitignore").write_text("/.venv/\n")
    assert run("git", "init", "-q", cwd=folder).returncode == 0
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        run("git", "config", key, value, cwd=folder)
    done = run("pre-commit", "install", cwd=folder, PRE_COMMIT_HOME=str(folder.parent / "home"))
    assert done.returncode == 0, done.stderr
    assert (folder / ".git/hooks/pre-push").exists()
    assert commit(folder).returncode == 0
    return folder


def commit(folder: Path) -> subprocess.CompletedProcess[str]:
    """`git add -A` and `git commit`, with the hooks but `make lint`."""
    assert run("git", "add", "-A", cwd=folder).returncode == 0
    home = str(folder.parent / "home")
    return run("git", "commit", "-qm", "more", cwd=folder, SKIP="lint", PRE_COMMIT_HOME=home)


@pytest.mark.parametrize("kind", KEYS)
def test_a_credential_is_not_committed(hooked: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(hooked, tmp_path / "repository", symlinks=True)
    name, content = KEYS[kind]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    before = run("git", "rev-parse", "HEAD", cwd=folder).stdout
    done = commit(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failed" in done.stdout + done.stderr
    assert run("git", "rev-parse", "HEAD", cwd=folder).stdout == before


def test_what_is_committed_today_has_no_credential(tmp_path: Path) -> None:
    # A hook gets the files' names, and reads them.
    listed = run("git", "ls-files", "-z", cwd=REPO).stdout.split("\0")
    there = [name for name in listed if name and os.path.lexists(REPO / name)]
    for hook in ("credentials", "credentials-of-remotes", "credentials-of-models"):
        done = run("pre-commit", "run", hook, "--files", *there, cwd=REPO, PRE_COMMIT_HOME=str(tmp_path))
        assert done.returncode == 0, done.stdout
