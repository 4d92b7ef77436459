"""A small real pipeline in a git and DVC repository, with a shared remote of each: four stages that take no time."""

import shutil
import subprocess
from pathlib import Path

from tests.conftest import REPO, must, run

CODE = {
    "prepare": """
from pathlib import Path
for part in ("train", "val"):
    Path("data/set", part).mkdir(parents=True)
    Path("data/set", part, "a.txt").write_text(f"{part} {P['pictures']}")
""",
    "train": """
from pathlib import Path
import json
text = Path("data/set/train/a.txt").read_text()
Path("data/model").write_text(f"{text} {P['lr']} {HOST if P['random'] else ''}")
Path("data/metrics/train.json").write_text(json.dumps({"val_loss": 1 / P["lr"]}))
""",
    "evaluate": """
from pathlib import Path
import json
model, val = Path("data/model").read_text(), Path("data/set/val/a.txt").read_text()
Path("data/metrics/evaluate.json").write_text(json.dumps({"all": {"pq": float(len(model + val))}, "of": model}))
""",
    "report": """
from pathlib import Path
Path("data/report").mkdir()
Path("data/report/index.html").write_text("".join(p.read_text() for p in sorted(Path("data/metrics").iterdir())))
""",
}
HEAD = "import os, yaml\nP = yaml.safe_load(open('params.yaml'))[{name!r}]\nHOST = os.environ.get('HOST', '')\n"
STAGES = """
stages:
  prepare:
    cmd: python code/prepare.py
    deps: [code/prepare.py]
    params: [prepare]
    outs: [data/set]
  train:
    cmd: python code/train.py
    deps: [code/train.py, data/set]
    params: [train]
    outs: [data/model]
    metrics: [{data/metrics/train.json: {cache: false}}]
  evaluate:
    cmd: python code/evaluate.py
    deps: [code/evaluate.py, data/model, data/set/val]
    params: [evaluate]
    metrics: [{data/metrics/evaluate.json: {cache: false}}]
  report:
    cmd: python code/report.py
    deps: [code/report.py, data/metrics]
    params: [report]
    outs: [data/report]
"""
PARAMS = """prepare:
  pictures: 4



train:
  lr: 1
  random: false



evaluate:
  top_k: 1



report:
  title: one
"""


def create(folder: Path) -> Path:
    """Make folder/one, built, committed and pushed to folder/origin.git. DVC's remote is folder/store."""
    one = folder / "one"
    for name, code in CODE.items():
        (one / "code").mkdir(parents=True, exist_ok=True)
        (one / f"code/{name}.py").write_text(HEAD.format(name=name) + code)
    (one / "data/metrics").mkdir(parents=True)
    (one / "dvc.yaml").write_text(STAGES)
    (one / "params.yaml").write_text(PARAMS)
    (one / ".gitignore").write_text("/data/*\n!/data/metrics/\n")
    shutil.copy(REPO / ".gitattributes", one)
    must("git", "init", "-q", "-b", "main", cwd=one)
    must("dvc", "init", "-q", cwd=one)
    # A remote's path is relative to .dvc, so that a copy of the folder has its own.
    (one / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    )
    must("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin.git"), cwd=one)
    must("git", "remote", "add", "origin", "../origin.git", cwd=one)
    identify(one)
    build(one, "start")
    return one


def identify(folder: Path) -> None:
    for key, value in (("user.name", "t"), ("user.email", "t@example.org"), ("merge.conflictStyle", "merge")):
        must("git", "config", key, value, cwd=folder)


def clone(folder: Path, name: str) -> Path:
    """Clone folder/origin.git to folder/name and pull its data."""
    must("git", "clone", "-q", "origin.git", name, cwd=folder)
    must("git", "remote", "set-url", "origin", "../origin.git", cwd=folder / name)
    identify(folder / name)
    must("dvc", "pull", "-q", cwd=folder / name)
    return folder / name


def edit(folder: Path, path: str, old: str, new: str) -> None:
    text = (folder / path).read_text()
    assert old in text
    (folder / path).write_text(text.replace(old, new))


def build(folder: Path, message: str, *stages: str, **env: str) -> None:
    """Run the pipeline, commit all and push the commit."""
    must("dvc", "repro", "-q", *stages, cwd=folder, **env)
    must("git", "add", "-A", cwd=folder)
    must("git", "commit", "-qm", message, cwd=folder)
    must("git", "push", "-q", "origin", "HEAD", cwd=folder)


def command(name: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of stages/commands in a folder."""
    return run("python", "-m", f"stages.commands.{name}", *options, cwd=cwd, PYTHONPATH=str(REPO))
