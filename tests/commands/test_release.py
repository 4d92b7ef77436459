"""Releases of a small project, by real git, DVC and GTO, between real clones."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from stages import config
from stages.commands import board, release, results
from stages.foundation import files
from stages.releases import manifest, signing
from tests.conftest import REPO, must, run
from tests.support import keys, project
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


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"\xff", b"[" * 200_000, b'{"format": 1}', b'{"commit": 1}', b"1" * 9999]
)
def test_a_manifest_of_another_shape_is_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^v1:manifest\.json.*; fetch the tag again$") as raised:
        manifest.parse(content, "v1:manifest.json")
    assert len(str(raised.value).splitlines()) == 1


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


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of ann and of mallory, and `signers`, which allows ann's."""
    folder = tmp_path_factory.mktemp("people")
    keys.make(folder / "mallory")
    keys.allow(folder / "signers", keys.make(folder / "ann"))
    return folder


@pytest.fixture(scope="module")
def signed(released: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the released project with a second release, 1.3.0, which ann signed."""
    folder = Path(shutil.copytree(released, tmp_path_factory.mktemp("signed") / "project", symlinks=True))
    command = ("python", "-m", "stages.commands.release", "--version", "1.3.0")
    shown = must(*command, cwd=folder, SIGNING_KEY=str(people / "ann"))
    assert f"is committed and tagged, signed by {people / 'ann'}; nothing was pushed" in shown
    must("dvc", "push", "-q", cwd=folder)
    return folder


def check(folder: Path, version: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run("python", "-m", "stages.commands.release", "--check", "--version", version, cwd=folder, **env)


def get(url: Path, cwd: Path, *more: str, version: str = "1.3.0", **env: str) -> subprocess.CompletedProcess[str]:
    command = ("--url", str(url), "--version", version, "--name", "engine-cpu", *more)
    return run("python", "-m", "stages.commands.get", *command, cwd=cwd, PYTHONPATH=str(REPO), **env)


def predict(engine: Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ("--engine", str(engine), "--source", "no such picture")
    return run("python", "-m", "stages.commands.predict", *command, cwd=cwd, PYTHONPATH=str(REPO), **env)


LOADED = "no such picture"
"""Part of predict's message where it went on after the check of the signature."""


def resigned(folder: Path, key: Path, change: Callable[[dict], object]) -> Path:
    """Change the manifest of 1.3.0, have it signed by `key`, and move the tag."""
    path = folder / "releases/1.3.0/manifest.json"
    content = files.read_json(path)
    change(content)
    path.write_text(json.dumps(content))
    signing.sign_file(path, key)
    commit(folder, "changed")
    must("git", "tag", "-f", "v1.3.0", cwd=folder)
    return folder


def test_one_signature_covers_a_release(signed: Path, people: Path, tmp_path: Path) -> None:
    listed = must("git", "ls-tree", "-r", "--name-only", "v1.3.0", "releases/1.3.0/", cwd=signed).splitlines()
    assert {Path(name).name for name in listed} == {"README.md", "manifest.json", "manifest.json.sig", "1.jpg", "2.jpg"}
    place = signed / "releases/1.3.0/manifest.json"
    command = f"ssh-keygen -Y verify -n vistas2engine -f {people}/signers -I ann@example.org -s {place}.sig < {place}"
    must("bash", "-c", command, cwd=tmp_path)
    done = check(signed, "1.3.0", ALLOWED_SIGNERS=str(people / "signers"))
    assert (done.returncode, done.stderr) == (0, "v1.3.0: signed by ann@example.org\n")
    assert "derived again from its commit is the same" in done.stdout
    assert check(signed, "1.3.0").returncode == 0, "nobody has to check it"


def test_the_check_of_a_release_begins_with_its_signature(signed: Path, people: Path, tmp_path: Path) -> None:
    allowed = {"ALLOWED_SIGNERS": str(people / "signers")}
    forged = Path(shutil.copytree(signed, tmp_path / "forged", symlinks=True))
    path = forged / "releases/1.3.0/manifest.json"
    path.write_text(path.read_text().replace("33.25", "99.00"))
    commit(forged, "forged")
    must("git", "tag", "-f", "v1.3.0", cwd=forged)
    strangers = resigned(Path(shutil.copytree(signed, tmp_path / "x", symlinks=True)), people / "mallory", dict.copy)
    for folder, version, message in (
        (signed, "1.2.0", "v1.2.0: releases/1.2.0/manifest.json: no signature, expected one by a signer"),
        (forged, "1.3.0", "v1.3.0: releases/1.3.0/manifest.json: its signature is not one of this content"),
        (strangers, "1.3.0", "v1.3.0: releases/1.3.0/manifest.json: signed by ED25519 key SHA256:"),
    ):
        # No artifact can be read: who looks for one fails otherwise.
        shutil.rmtree(folder / ".dvc/cache") if folder != signed else None
        done = check(folder, version, **allowed)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(message)


def test_what_can_not_be_signed_is_not_released(own: Path, people: Path) -> None:
    before = state(own)
    for key in (people / "none", people / "signers"):
        done = run(
            "python", "-m", "stages.commands.release", "--version", "1.2.0", cwd=own, SIGNING_KEY=str(key)
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("SIGNING_KEY")
        assert [*state(own)[:3], str(any((own / "releases").rglob("*")))] == before


def test_an_engine_of_a_signed_release_is_taken_and_loaded(signed: Path, people: Path, tmp_path: Path) -> None:
    allowed = {"ALLOWED_SIGNERS": str(people / "signers")}
    done = get(signed, tmp_path, "--out", "board/engine", **allowed)
    assert done.returncode == 0, done.stderr
    assert "the manifest is signed by ann@example.org" in done.stdout
    folder = tmp_path / "board/engine"
    here = signed / "data/engines/cpu"
    assert (folder / "cpu.onnx").read_bytes() == (here / "cpu.onnx").read_bytes()
    assert (folder / "cpu.onnx").stat().st_nlink == 1, "an edit of it would change the remote"
    done = predict(folder, tmp_path, **allowed)
    assert done.stderr.startswith(f"{folder}: signed by ann@example.org\n")
    assert LOADED in done.stderr
    assert get(signed, tmp_path, "--out", "board/engine", **allowed).returncode == 0, "its own folder is replaced"


def remove_signature(folder: Path) -> None:
    (folder / "release.json.sig").unlink()


def remove_release(folder: Path) -> None:
    (folder / "release.json").unlink()


def change_release(folder: Path) -> None:
    path = folder / "release.json"
    path.write_text(path.read_text().replace("33.25", "99.00"))


def change_description(folder: Path) -> None:
    path = folder / "engine.json"
    path.write_text(path.read_text().replace('"fp32"', '"fp16"'))


def remove_description(folder: Path) -> None:
    (folder / "engine.json").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_signature, "release.json: no signature, expected one"),
        (remove_release, "release.json: no signature, expected one"),
        (change_release, "release.json: its signature is not one of this content"),
        (
            change_description,
            "engine.json: SHA-256 .* is of no engine in the release 1.3.0 that ann@example.org signed",
        ),
        (remove_description, "engine.json: SHA-256 no such file is of no engine in the release 1.3.0"),
    ],
)
def test_an_engine_that_is_not_as_signed_is_not_loaded(
    signed: Path, people: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    assert get(signed, tmp_path).returncode == 0
    change(tmp_path / "engine-cpu")
    done = predict(tmp_path / "engine-cpu", tmp_path, ALLOWED_SIGNERS=str(people / "signers"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(message, line)
    assert "signed by" not in done.stdout


def test_other_bytes_beside_a_signed_description_are_not_loaded(signed: Path, people: Path, tmp_path: Path) -> None:
    assert get(signed, tmp_path).returncode == 0
    engine = tmp_path / "engine-cpu/cpu.onnx"
    engine.write_bytes(engine.read_bytes() + b" ")
    source = signed / "data/raw/sample/validation/images"
    command = ("--engine", "engine-cpu", "--source", str(source))
    env = {"PYTHONPATH": str(REPO), "ALLOWED_SIGNERS": str(people / "signers")}
    done = run("python", "-m", "stages.commands.predict", *command, cwd=tmp_path, **env)
    assert done.returncode == 1
    assert "cpu.onnx: SHA-256" in done.stderr.splitlines()[-1]


def test_an_engine_that_nobody_signed_is_loaded_where_no_signers_are_set(released: Path, tmp_path: Path) -> None:
    done = get(released, tmp_path, version="1.2.0")
    assert done.returncode == 0, done.stderr
    assert "the manifest is not signed" in done.stdout
    for engine in (tmp_path / "engine-cpu", released / "data/engines/cpu"):
        assert LOADED in predict(engine, tmp_path).stderr
        assert LOADED in predict(engine, tmp_path, ALLOWED_SIGNERS="").stderr


def test_nothing_of_a_release_is_fetched_before_its_signature_is_right(
    signed: Path, people: Path, tmp_path: Path
) -> None:
    strangers = resigned(Path(shutil.copytree(signed, tmp_path / "x", symlinks=True)), people / "mallory", dict.copy)
    # A remote that is not there: who looks for an artifact first says so.
    must("dvc", "remote", "modify", "team", "url", str(tmp_path / "none"), cwd=strangers)
    shutil.rmtree(strangers / ".dvc/cache")
    commit(strangers, "remote")
    must("git", "tag", "-f", "v1.3.0", cwd=strangers)
    signers = str(people / "signers")
    for url, version, allowed, message in (
        (signed, "1.2.0", signers, "the manifest of release 1.2.0: no signature"),
        (strangers, "1.3.0", signers, "the manifest of release 1.3.0: signed by ED25519 key SHA256:"),
        (strangers, "1.3.0", "", "data/engines/cpu/"),
        (signed, "1.3.0", str(people / "none"), "ALLOWED_SIGNERS: found no file"),
    ):
        done = get(url, tmp_path, version=version, ALLOWED_SIGNERS=allowed)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(message), line
        assert not (tmp_path / "engine-cpu").exists()


def test_without_ssh_keygen_nothing_is_taken(signed: Path, people: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to(shutil.which("git") or "git")
    for module, *options in (
        ("get", "--url", str(signed), "--version", "1.3.0", "--name", "engine-cpu"),
        ("predict", "--engine", "data/engines/cpu", "--source", "data/raw/sample/validation/images"),
        ("release", "--check", "--version", "1.3.0"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"stages.commands.{module}", *options],
            cwd=signed, capture_output=True, text=True, check=False,
            env={"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(REPO), "ALLOWED_SIGNERS": str(people / "signers")},
        )  # fmt: skip
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("ALLOWED_SIGNERS is set, and ssh-keygen was not found; install OpenSSH's client")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(version="1.2.0"),
            "the manifest of release 1.3.0 is one of 1.2.0: it was put there by hand",
        ),
        (lambda m: m["artifacts"].pop("engine-cpu"), "release 1.3.0 has no artifact engine-cpu; NAME is one of"),
        (lambda m: m.update(artifacts=[]), r"the manifest of release 1.3.0: not the manifest of a release \(artifacts"),
        (
            lambda m: m["artifacts"]["engine-cpu"]["files"].update({"../../x": {"bytes": 1, "sha256": "0"}}),
            r"found the path '\.\./\.\./x' in it",
        ),
        (
            lambda m: m["artifacts"]["engine-cpu"]["files"].update({"release.json": {"bytes": 1, "sha256": "0"}}),
            "found the path 'release.json' in it",
        ),
        (
            lambda m: m["artifacts"]["engine-cpu"]["files"]["cpu.onnx"].update(sha256="0" * 64),
            "engine-cpu/cpu.onnx: SHA-256 .*, expected 0000",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_though_it_is_signed(
    signed: Path, people: Path, tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    folder = resigned(Path(shutil.copytree(signed, tmp_path / "own", symlinks=True)), people / "ann", change)
    (tmp_path / "here").mkdir()
    done = get(folder, tmp_path / "here", ALLOWED_SIGNERS=str(people / "signers"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.search(message, line), line
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_of_the_users_is_kept(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "engine-cpu").mkdir()
    (tmp_path / "engine-cpu/thesis.txt").write_text("mine")
    done = get(signed, tmp_path)
    assert done.returncode == 1
    assert "engine-cpu has thesis.txt, which this command did not write" in done.stderr
    assert (tmp_path / "engine-cpu/thesis.txt").read_text() == "mine"


def test_what_get_can_not_find_is_one_line(signed: Path, tmp_path: Path) -> None:
    for url, version in ((tmp_path / "none", "1.3.0"), (signed, "9.9.9"), (tmp_path, "1.3.0")):
        done = get(url, tmp_path, version=version)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_kit_is_signed(own: Path, people: Path) -> None:
    command = ("python", "-m", "stages.commands.kit", "--target", "cpu")
    shown = must(*command, cwd=own, SIGNING_KEY=str(people / "ann"))
    assert "-s kit_cpu.tar.sig < kit_cpu.tar\n" in shown
    assert signing.require_file(own / "outputs/kit_cpu.tar", people / "signers") == "ann@example.org"


def test_results_of_a_machine_are_signed(own: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout, cfg = results.Layout(own, "cpu"), config.load(own / "params.yaml")
    for stage in results.MEASURED:
        results.record(layout, stage, cfg)
    out = own / "outputs/results_cpu.tar"
    board.finish(layout, with_engine=False, out=out, key=people / "ann")
    assert "Copy it and results_cpu.tar.sig to the workspace" in capsys.readouterr().out
    command = ("python", "-m", "stages.commands.import_results", "outputs/results_cpu.tar")
    done = run(*command, cwd=own, ALLOWED_SIGNERS=str(people / "signers"))
    assert done.stdout.startswith("outputs/results_cpu.tar: signed by ann@example.org\n")
