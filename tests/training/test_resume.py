"""What a killed training has done, by TAO's history and its checkpoints, and where the next one goes on."""

import hashlib
import json
import os
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.foundation import files
from stages.training import resume


def event(message: str, **more: Any) -> str:
    return json.dumps({"message": message, **more})


def test_history_of_a_status_file(tmp_path: Path) -> None:
    """TAO repeats the last figures in other events, and after a resumption epochs come again."""
    kpi = {"mIoU": 0.5, "ACC_all": 0.75, "val_loss": 4.0}
    status = tmp_path / "status.json"
    lines = [
        event("Starting Training Loop."),
        event("Training loop in progress", epoch=0),
        event("Train metrics generated.", kpi={"train_loss": 3.0}),
        event("Eval metrics generated.", kpi={**kpi, "mIoU": 0.1}),
        '{"message": "Train met',  # killed here
        event("Starting Training Loop."),
        event("Training loop in progress", epoch=0),
        event("Train metrics generated.", kpi={"train_loss": 2.5}),
        event("Eval metrics generated.", kpi=kpi),
        event("Training loop in progress", kpi=kpi, epoch=1),
        event("Train metrics generated.", kpi={"train_loss": 2.0}),
    ]
    status.write_text("\n".join(lines))
    assert resume.history(tmp_path / "absent.json") == []
    assert resume.history(status) == [
        {"epoch": 1, "train_loss": 2.5},
        {"epoch": 2, "train_loss": 2.0, "val_loss": 4.0, "val_miou": 0.5, "val_pixel_accuracy": 0.75},
    ]


def loops(*, last: bool = True, counted: int = 4) -> dict[str, Any]:
    """Return the part of Lightning's state that says where in an epoch a checkpoint was written, after four steps."""
    state = {
        "epoch_loop.batch_progress": {"is_last_batch": last},
        "epoch_loop.state_dict": {"_batches_that_stepped": counted},
    }
    return {"loops": {"fit_loop": state}, "global_step": 4}


def test_a_checkpoint_of_the_middle_of_an_epoch_is_not_gone_on_from(tmp_path: Path) -> None:
    contents = {"whole": loops(), "last": loops(last=False), "counted": loops(counted=3)}
    contents |= {"model_best_4": loops(counted=3), "model_best_5": loops(last=False, counted=3)}
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
    assert resume.defect(tmp_path / "whole.pth") == ""
    assert "middle of an epoch" in resume.defect(tmp_path / "last.pth")
    assert "middle of an epoch" in resume.defect(tmp_path / "counted.pth")
    # TAO writes the best one in the validation, before the last step is counted.
    assert resume.defect(tmp_path / "model_best_4.pth") == ""
    assert "middle of an epoch" in resume.defect(tmp_path / "model_best_5.pth")


def test_the_same_training_in_two_folders_publishes_the_same_bytes(tmp_path: Path) -> None:
    """Lightning's ModelCheckpoint records the absolute paths of its folder."""
    published = []
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        state = {"dirpath": str(folder), "best_model_path": str(folder / "latest.pth")}
        callbacks = {"ModelCheckpoint{'monitor': None}": state, "EarlyStopping": {"wait_count": 1}}
        weights = OrderedDict(w=torch.ones(2))
        vars(weights)["_metadata"] = {"": {"version": 1}}
        # Whether equal strings are one object depends on an interruption.
        names = ["lr", "lr"] if name == "one" else ["lr", "".join(["l", "r"])]
        content = {"state_dict": weights, "callbacks": callbacks, "epoch": 3, "names": names, "at": Counter({2: 1})}
        torch.save(content, folder / "latest.pth")
        resume.publish(folder / "latest.pth", folder / "model.pth")
        published.append((folder / "model.pth").read_bytes())
        assert str(folder).encode() not in published[-1]
    assert published[0] == published[1]
    content = torch.load(tmp_path / "one/model.pth", weights_only=True)
    assert content["callbacks"] == {"EarlyStopping": {"wait_count": 1}}
    assert content["epoch"] == 3
    assert (content["names"], content["at"]) == (["lr", "lr"], Counter({2: 1}))
    assert vars(content["state_dict"]) == {"_metadata": {"": {"version": 1}}}


def epoch_checkpoint(folder: Path, number: int) -> Path:
    """Write what decides about the checkpoint of an epoch, counted from 1."""
    path = folder / f"model_epoch_{number - 1:03}_step_{4 * number:05}.pth"
    torch.save({**loops(), "epoch": number - 1}, path)
    return path


def epoch_events(number: int, loss: float) -> list[str]:
    return [
        event("Training loop in progress", epoch=number - 1),
        event("Train metrics generated.", kpi={"train_loss": loss}),
    ]


def test_another_training_starts_anew(tmp_path: Path) -> None:
    work = tmp_path / "work"
    nothing = resume.Progress([], None)
    assert resume.prepare(work, {"spec": "a"}) == nothing
    (work / "train").mkdir()
    kept = epoch_checkpoint(work / "train", 1)
    (work / "train/status.json").write_text("\n".join(epoch_events(1, 2.0)))
    assert resume.prepare(work, {"spec": "a"}) == resume.Progress([{"epoch": 1, "train_loss": 2.0}], kept)
    assert resume.prepare(work, {"spec": "b"}) == nothing
    assert not kept.exists()


def test_an_epoch_is_done_once_it_has_both_its_row_and_its_checkpoint(tmp_path: Path) -> None:
    """TAO leaves either without the other when it is interrupted at the end of an epoch."""
    work = tmp_path / "work"
    resume.prepare(work, {})
    (work / "train").mkdir()
    status = work / "train/status.json"
    one, two = (epoch_checkpoint(work / "train", number) for number in (1, 2))
    status.write_text("\n".join(epoch_events(1, 3.0)))
    first = resume.Progress([{"epoch": 1, "train_loss": 3.0}], one)
    # Its checkpoint would say that nothing is left to train, and its row would never come.
    assert resume.prepare(work, {}) == first
    assert not two.exists()
    status.write_text("\n".join([*epoch_events(1, 3.0), *epoch_events(2, 2.0)]))
    assert resume.prepare(work, {}) == first
    # The row of the epoch that was lost isn't that of the checkpoint that a second interruption leaves.
    resumed = event(f"Resuming training from checkpoint: {one}")
    status.write_text("\n".join([*epoch_events(1, 3.0), *epoch_events(2, 2.0), resumed]))
    epoch_checkpoint(work / "train", 2)
    assert resume.prepare(work, {}) == first
    epoch_checkpoint(work / "train", 2)
    with status.open("a") as lines:
        lines.write("\n" + "\n".join(epoch_events(2, 1.5)))
    assert resume.prepare(work, {}).rows[-1] == {"epoch": 2, "train_loss": 1.5}


def test_a_work_folder_of_the_users_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"has thesis\.tex, which is of no training"):
        resume.prepare(tmp_path, {})
    assert (tmp_path / "thesis.tex").exists()


def test_lines_that_are_no_event_are_left_out(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    status.write_bytes("\n".join(["[]", "1", "null", '"a"', "\0\0", "{}", *epoch_events(1, 2.0)]).encode() + b"\n\xff{")
    assert resume.history(status) == [{"epoch": 1, "train_loss": 2.0}]


def test_epochs_come_in_order_and_those_after_a_resumption_are_lost(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    resumed = event("Resuming training from checkpoint: train/model_epoch_000_step_00004.pth")
    lost = [event("Eval metrics generated.", kpi={"mIoU": 0.9, "other": 1}), *epoch_events(3, 1.0)]
    status.write_text("\n".join([*epoch_events(2, 3.0), *epoch_events(1, 4.0), *lost, resumed, *epoch_events(2, 2.5)]))
    assert resume.history(status) == [{"epoch": 1, "train_loss": 4.0}, {"epoch": 2, "train_loss": 2.5}]


def test_a_validation_before_a_start_is_of_no_epoch(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    validation = event("Eval metrics generated.", kpi={"val_loss": 4.0})
    status.write_text("\n".join([validation, event("Starting Training Loop."), *epoch_events(1, 2.0)]))
    assert resume.history(status) == [{"epoch": 1, "train_loss": 2.0}]
    status.write_text("\n".join([validation, *epoch_events(1, 2.0), *epoch_events(2, 1.0)]))
    assert resume.history(status) == [
        {"epoch": 1, "train_loss": 2.0, "val_loss": 4.0},
        {"epoch": 2, "train_loss": 1.0},
    ]


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = (epoch_checkpoint(tmp_path, number) for number in (1, 2, 3))
    (tmp_path / "model_epoch_001_step_00099.txt").write_text("no checkpoint")
    (tmp_path / "my_model_epoch_001_step_00099.pth").write_text("of the user")
    assert resume.checkpoints(tmp_path) == [three, two, one]
    assert [resume.epoch(path) for path in (one, two, three)] == [1, 2, 3]
    (tmp_path / "status.json").write_text("\n".join([*epoch_events(1, 3.0), *epoch_events(2, 2.0)]))
    three.write_bytes(three.read_bytes()[:-50])
    done = resume.progress(tmp_path)
    assert done == resume.Progress([{"epoch": 1, "train_loss": 3.0}, {"epoch": 2, "train_loss": 2.0}], two)
    assert f"{three}: it can't be read" in caplog.text
    assert caplog.text.rstrip().endswith("trying the checkpoint before it")
    two.unlink()
    (tmp_path / "status.json").write_text("")
    assert resume.progress(tmp_path) == resume.Progress([], None)
    assert f"{one}: TAO was interrupted before it wrote down epoch 1; trying" in caplog.text


def test_a_defect_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    assert resume.defect(path).startswith("it can't be read (")
    for content in ({"loops": {}}, [1], {"loops": {"fit_loop": None}}):
        torch.save(content, path)
        assert resume.defect(path).startswith("it can't be read (")
        assert len(resume.defect(path).splitlines()) == 1


def test_the_identity_depends_on_files_names_and_sizes(tmp_path: Path) -> None:
    spec, picture = tmp_path / "spec.yaml", tmp_path / "a.jpg"
    spec.write_text("a: 1")
    picture.write_bytes(b"12")
    first = resume.identity({"spec": spec}, [picture])
    about = json.dumps([(str(picture), 2)]).encode()
    assert first == {
        "spec": hashlib.sha256(b"a: 1").hexdigest(),
        "pictures": hashlib.sha256(about).hexdigest(),
    }
    picture.write_bytes(b"123")
    assert resume.identity({"spec": spec}, [picture])["pictures"] != first["pictures"]


def test_a_record_that_is_damaged_or_gone_begins_anew(tmp_path: Path) -> None:
    work = tmp_path / "deep/work"
    for spoil in (lambda path: path.write_text("{"), Path.unlink):
        assert resume.prepare(work, {"spec": "a"}) == resume.Progress([], None)
        assert files.read_json(work / resume.RUN) == {"spec": "a"}
        (work / "train").mkdir()
        kept = epoch_checkpoint(work / "train", 1)
        (work / "train/status.json").write_text("\n".join(epoch_events(1, 2.0)))
        spoil(work / resume.RUN)
        assert resume.prepare(work, {"spec": "a"}) == resume.Progress([], None)
        assert not kept.exists()
    resume.forget(work)
    resume.forget(work)
    assert not (work / resume.RUN).exists()


def test_what_only_a_resumption_needs_is_deleted_at_the_end(tmp_path: Path) -> None:
    resume.prepare(tmp_path, {})
    (tmp_path / "train").mkdir()
    epoch_checkpoint(tmp_path / "train", 1)
    (tmp_path / "start.pkl").write_text("start")
    (tmp_path / "train/status.json").write_text("{}")
    resume.finish(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "run.json",
        "train",
        "train/status.json",
    ]


def test_the_best_is_the_newest_whole_one_of_an_epoch_that_is_done(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "train_loss": 3.0}, {"epoch": 2, "train_loss": 2.0}]
    assert resume.best(tmp_path, resume.Progress(rows, None)) is None
    paths = []
    for number in (1, 2, 3):
        made = epoch_checkpoint(tmp_path, number)
        # Their names, which have the epoch without leading zeros, are in another order than their times.
        paths.append(made.rename(tmp_path / f"model_best_{9 - number}.pth"))
        os.utime(paths[-1], (number, number))
    assert resume.best(tmp_path, resume.Progress(rows, None)) == paths[1]
    paths[1].write_bytes(b"")
    assert resume.best(tmp_path, resume.Progress(rows, None)) == paths[0]
    assert resume.best(tmp_path, resume.Progress(rows[1:], None)) is None
