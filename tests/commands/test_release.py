"""Releases of a small project, by real git, DVC and GTO, between real clones."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from stages.commands import release
from stages.foundation import files
from tests.conftest import REPO, must, run
from tests.support import project
from tests.support.project import commit

TAGS = ["v1.2.0", "checkpoint@v1.2.0", "engine-cpu@v1.2.0", "onnx@v1.2.0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.build(tmp_path_factory.mktemp("release") / "project")


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the project for one test."""
    return Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


@pytest.fixture(scope="module")
def released(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released copy whose artifacts are in a remote that is a folder."""
    root = tmp_path_factory.mktemp("released")
    folder = Path(shutil.copytree(finished, root / "project", symlinks=True))
    must("dvc", "remote", "add", "-q", "-f", "-d", "team", str(root / "remote"), cwd=folder)
    # A licence that somebody states, and one that the set brings.
    (folder / "conf/licences.yaml").write_text("data/checkpoint: CC-BY-NC-SA-4.0\n")
    commit(folder, "remote")
    shown = must("python", "-m", "stages.commands.release", "--version", "1.2.0", cwd=folder)
    assert "note: licence of data/raw/sample: not stated" in shown
    assert "licence of data/checkpoint" not in shown
    assert f"publish it:  make push && git push origin HEAD {' '.join(TAGS)}" in shown
    must("dvc", "push", "-q", cwd=folder)
    return folder


def recorded(folder: Path) -> dict[str, dict]:
    return files.read_json(folder / "releases/1.2.0/manifest.json")


def state(folder: Path) -> list[str]:
    """All that a refused release must leave as it was."""
    return [must("git", *what.split(), cwd=folder) for what in ("rev-parse HEAD", "tag", "status --porcelain")] + [
        str((folder / "releases").exists())
    ]


def test_the_manifest_goes_from_raw_data_to_the_engine(released: Path) -> None:
    found = recorded(released)
    assert found["commit"] == must("git", "rev-parse", "HEAD~1", cwd=released).strip()
    assert found["date"] == must("git", "show", "-s", "--format=%cI", "HEAD~1", cwd=released).strip()
    lock = OmegaConf.to_container(OmegaConf.load(released / "dvc.lock"))["stages"]
    for stage in lock.values():
        for out in stage["outs"]:
            assert found["outputs"][out["path"]]["md5"] == out["md5"]
    assert found["raw_data"]["data/raw/sample"]["md5"] == found["outputs"]["data/raw/sample"]["md5"]
    engine = files.sha256(released / "data/engines/cpu/cpu.onnx")
    assert (
        found["artifacts"]["engine-cpu"]["files"]["cpu.onnx"]["sha256"] == engine == found["engines"]["cpu"]["sha256"]
    )
    graph = files.sha256(released / "data/onnx/onnx/fp32/graph.onnx")
    assert found["engines"]["cpu"]["graph_sha256"] == graph == found["graphs"]["data/onnx/onnx/fp32"]["sha256"]
    checkpoint = files.sha256(released / "data/checkpoint/model.pth")
    assert found["provenance"]["checkpoint_sha256"] == checkpoint
    assert found["parameters"] == OmegaConf.to_container(OmegaConf.load(released / "params.yaml"))
    assert re.fullmatch(r"[\d.]+", found["versions"]["onnxruntime"])
    assert found["licences"]["code"]["stated"] == "Apache-2.0"
    assert found["licences"]["data/raw/sample"] == {"stated": None, "file": None}
    assert must("git", "status", "--porcelain", cwd=released) == ""


def test_the_model_card_is_one_of_hugging_faces(released: Path) -> None:
    folder = released / "releases/1.2.0"
    text = (folder / "README.md").read_text()
    about = ModelCard(text).data.to_dict()
    assert about["license"] == "cc-by-nc-sa-4.0"
    assert about["pipeline_tag"] == "image-segmentation"
    scores = {each["name"]: each["value"] for each in about["model-index"][0]["results"][0]["metrics"]}
    assert scores == {"PQ": 33.25, "SQ": 46.5, "RQ": 45.0, "mIoU": 51.5, "AP": 8.5}
    row = next(line for line in text.splitlines() if line.startswith("| cpu |"))
    assert "99.875 % | 33.12 | 24.50 | 27.25 | 40.5 | Test \\| CPU |" in row
    for path in re.findall(r"\]\((.+?)\)", text):
        assert (folder / path).exists(), path
    picture = cv2.imread(str(folder / "pictures/1.jpg"))
    assert picture.shape == (128, 4 * 192, 3), "picture, annotation, checkpoint, engine"
    assert "| data/raw/sample | not stated |" in text


def test_the_same_commit_gives_the_same_release(finished: Path, tmp_path: Path) -> None:
    contents = []
    for name in "ab":
        folder = Path(shutil.copytree(finished, tmp_path / name, symlinks=True))
        assert release.build(folder, "1.2.0", with_pictures=True) == TAGS
        contents.append({p.name: p.read_bytes() for p in (folder / "releases").rglob("*") if p.is_file()})
    assert contents[0].keys() == {"manifest.json", "README.md", "1.jpg", "2.jpg"}
    assert contents[0] == contents[1]


def test_a_fresh_clone_derives_the_manifest_again_from_the_remote(released: Path, tmp_path: Path) -> None:
    must("git", "clone", "-q", str(released), "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    done = run("python", "-m", "stages.commands.release", "--check", "--version", "1.2.0", cwd=clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "derived again from its commit is the same" in done.stdout
    assert not (clone / "data/checkpoint").exists(), "the workspace stays as it was"


def test_another_repository_gets_artifacts(released: Path, tmp_path: Path) -> None:
    must("git", "clone", "-q", str(released), "clone", cwd=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    found = recorded(released)["artifacts"]
    for name in ("checkpoint", "onnx", "engine-cpu"):
        must("dvc", "artifacts", "get", str(tmp_path / "clone"), name, "--rev", "v1.2.0", "-o", name, cwd=other)
        there = {path.name: files.sha256(path) for path in (other / name).iterdir()}
        assert there == {file: each["sha256"] for file, each in found[name]["files"].items()}
    must("dvc", "get", str(tmp_path / "clone"), "data/engines/cpu", "--rev", "v1.2.0", "-o", "got", cwd=other)
    assert files.sha256(other / "got/cpu.onnx") == found["engine-cpu"]["files"]["cpu.onnx"]["sha256"]
    versions = must("gto", "show", "--plain", cwd=tmp_path / "clone").split()
    assert versions.count("v1.2.0") == 3


def test_artifacts_are_outputs_of_the_pipeline_and_every_target_has_one(tmp_path: Path) -> None:
    """With all the targets of conf/target; DVC resolves the paths."""
    from dvc.repo import Repo

    from stages.commands import params
    from tests.conftest import copy_working_tree

    folder = copy_working_tree(tmp_path / "all")
    targets = sorted(path.stem for path in (REPO / "conf/target").glob("*.yaml"))
    more = [f"+target@targets.{name}={name}" for name in targets if name not in ("cpu", "rtx", "gpu")]
    params.build(folder / "conf", folder / "params.yaml", ["deploy.variants=[onnx,onnx_gather,cuda]", *more])
    must("git", "init", "-q", cwd=folder)
    with Repo(str(folder)) as repo:
        outs = {Path(out.fs_path).relative_to(folder).as_posix() for out in repo.index.outs}
        found = repo.artifacts.read()["dvc.yaml"]
    assert {artifact.path for artifact in found.values()} - outs == set()
    assert {f"engine-{name}" for name in targets} | {"checkpoint", "onnx"} == set(found)
    assert all(artifact.type and artifact.labels and artifact.desc for artifact in found.values())


@pytest.mark.parametrize(
    "version", ["v1.2.0", "1.2", "1.02.0", "latest", "1.2.0-", "1.2.0-01", "1.2.0+x", "1.2.0 ", ""]
)
def test_a_version_is_semver(finished: Path, version: str) -> None:
    with pytest.raises(ValueError, match=r"VERSION: must be a version by semver.org, such as 1.2.0"):
        release.build(finished, version, with_pictures=False)


def test_a_release_candidate_is_semver(own: Path) -> None:
    assert "checkpoint@v1.2.0-rc.1" in release.build(own, "1.2.0-rc.1", with_pictures=False)
    must("dvc", "artifacts", "get", ".", "checkpoint", "--rev", "v1.2.0-rc.1", "-o", "got", cwd=own)
    assert (own / "got/model.pth").read_bytes() == (own / "data/checkpoint/model.pth").read_bytes()
    assert release.check(own, "1.2.0-rc.1") == []


def edit(folder: Path) -> None:
    (folder / "stages/sample.py").write_text("")


def add(folder: Path) -> None:
    (folder / "stages/new.py").write_text("")


def change_parameter(folder: Path) -> None:
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("max_pq_difference: 0.2", "max_pq_difference: 0.3"))
    commit(folder, "parameter")


def remove_output(folder: Path) -> None:
    shutil.rmtree(folder / "data/engines/cpu")


def remove_from_cache(folder: Path) -> None:
    md5 = re.search(r"path: data/checkpoint\n.*\n *md5: (\w\w)(\S+)", (folder / "dvc.lock").read_text())
    listed = json.loads((folder / ".dvc/cache/files/md5" / md5[1] / md5[2]).read_text())
    md5 = next(each["md5"] for each in listed if each["relpath"] == "model.pth")
    (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()


def forge_engine(folder: Path) -> None:
    """An engine of another graph, committed as ours."""
    path = folder / "data/engines/cpu/engine.json"
    content = files.read_json(path)
    content["graph"]["sha256"] = "0" * 64
    path.unlink()
    path.write_text(json.dumps(content))
    must("dvc", "commit", "-q", "-f", cwd=folder)
    commit(folder, "engine")


def drop_artifact(folder: Path) -> None:
    path = folder / "dvc.yaml"
    path.write_text(re.sub(r"  engine-cpu: .*\n", "", path.read_text()))
    commit(folder, "artifact")


def break_licences(folder: Path) -> None:
    (folder / "conf/licences.yaml").write_text("- CC0\n")
    commit(folder, "licences")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit, r"git has 1 uncommitted changes:\n   ?M stages/sample.py"),
        (add, r"git has 1 uncommitted changes:\n  \?\? stages/new.py"),
        (change_parameter, r"stages are stale:\n(.*\n)*  verify@cpu: verify modified"),
        (remove_output, r"stages are stale:\n(.*\n)*  engine@cpu: data/engines/cpu deleted"),
        (
            remove_from_cache,
            r"1 stages are stale:\n  train: data/checkpoint not in cache\nrun .*`make pull`",
        ),
        (forge_engine, r"not of one build: the graph of engine cpu is \w+, expected 0000"),
        (drop_artifact, r"data/engines/cpu has no entry in artifacts of dvc.yaml.* add `engine-cpu: \{path: data/"),
        (break_licences, r"conf/licences.yaml: must be lines `path: licence`"),
    ],
)
def test_refused(own: Path, change: Callable[[Path], None], message: str) -> None:
    change(own)
    before = state(own)
    with pytest.raises((ValueError, RuntimeError), match=message):
        release.build(own, "1.2.0", with_pictures=True)
    assert state(own) == before


@pytest.mark.parametrize("tag", ["v1.2.0", "checkpoint@v1.2.0"])
def test_a_tag_that_is_there_is_refused(own: Path, tag: str) -> None:
    must("git", "tag", tag, cwd=own)
    done = run("python", "-m", "stages.commands.release", "--version", "1.2.0", cwd=own)
    assert done.returncode == 1
    assert done.stderr == f"tag {tag} is there already; choose another VERSION: a release never changes\n"


def test_a_commit_that_git_refuses_leaves_nothing(own: Path) -> None:
    hook = own / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho no credentials in commits >&2\nexit 1\n")
    hook.chmod(0o755)
    before = state(own)
    with pytest.raises(RuntimeError, match="git commit: no credentials in commits"):
        release.build(own, "1.2.0", with_pictures=False)
    assert [*state(own)[:3], str(any((own / "releases").rglob("*")))] == before


def test_figures_of_another_engine_are_not_shown(own: Path) -> None:
    project.write_metrics(own / "data", "0" * 64)
    must("dvc", "commit", "-q", "-f", cwd=own)
    commit(own, "figures of another engine")
    release.build(own, "1.2.0", with_pictures=False)
    text = (own / "releases/1.2.0/README.md").read_text()
    assert "| cpu | onnxruntime" in text
    assert "99.875" not in text
    assert "40.5" not in text
    assert "33.25" in text, "the checkpoint's figure stays"


def test_figures_of_an_adopted_engine_are_shown(own: Path) -> None:
    """Its target is not in `runnable`: its figures are in git and are no outputs of a stage."""
    params = own / "params.yaml"
    params.write_text(params.read_text().replace("runnable:\n- cpu", "runnable: []"))
    assert "runnable: []" in params.read_text()
    must("dvc", "commit", "-q", "-f", cwd=own)
    commit(own, "not runnable here")
    release.build(own, "1.2.0", with_pictures=True)
    assert "99.875 %" in (own / "releases/1.2.0/README.md").read_text()
    assert release.check(own, "1.2.0") == []


def test_a_licence_in_the_set_is_named(own: Path) -> None:
    must("dvc", "unprotect", "data/raw/sample", cwd=own)
    (own / "data/raw/sample/LICENSE").write_text("for research only\n")
    must("dvc", "commit", "-q", "-f", cwd=own)
    commit(own, "licence")
    release.build(own, "1.2.0", with_pictures=False)
    found = recorded(own)["licences"]["data/raw/sample"]
    assert found["file"] == "data/raw/sample/LICENSE"
    assert found["sha256"] == files.sha256(own / "data/raw/sample/LICENSE")
    assert "| data/raw/sample | the file data/raw/sample/LICENSE |" in (own / "releases/1.2.0/README.md").read_text()


def test_check_prints_each_difference(released: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(released, tmp_path / "forged", symlinks=True))
    path = forged / "releases/1.2.0/manifest.json"
    content = files.read_json(path)
    content["metrics"]["evaluate"]["all"]["pq"] = 99.0
    content["engines"]["cpu"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    card = forged / "releases/1.2.0/README.md"
    card.write_text(card.read_text().replace("33.25", "99.00"))
    (forged / "stages/sample.py").write_text("")
    must("git", "commit", "-qam", "forged", cwd=forged)
    must("git", "tag", "-f", "v1.2.0", cwd=forged)
    done = run("python", "-m", "stages.commands.release", "--check", "--version", "1.2.0", cwd=forged)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "metrics > evaluate > all > pq: the manifest has 99.0, derived 33.25" in lines
    assert any(line.startswith(f"engines > cpu > sha256: the manifest has '{'0' * 64}'") for line in lines)
    assert any(line.startswith("files > README.md: ") for line in lines)
    assert "README.md: not the model card that the derived manifest gives" in lines
    assert any(line.startswith("stages/sample.py: changed between the released commit ") for line in lines)
    assert any(line.startswith("tag checkpoint@v1.2.0: expected at ") for line in lines)
    assert len(lines) == 8


def test_check_names_what_is_missing(released: Path, tmp_path: Path) -> None:
    done = run("python", "-m", "stages.commands.release", "--check", "--version", "9.9.9", cwd=released)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "there is no tag v9.9.9 here; run `git fetch --tags`, or name another VERSION\n"
    must("git", "clone", "-q", str(released), "clone", cwd=tmp_path)
    must("dvc", "remote", "modify", "--local", "team", "url", str(tmp_path / "none"), cwd=tmp_path / "clone")
    done = run("python", "-m", "stages.commands.release", "--check", "--version", "1.2.0", cwd=tmp_path / "clone")
    assert done.returncode == 1
    assert "can't be read from git, DVC's cache or its remote" in done.stderr.splitlines()[-1]
    assert "run `make pull` in a checkout of that commit" in done.stderr.splitlines()[-1]
