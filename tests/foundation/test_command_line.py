"""Stages and commands end with one line and status 1 after a user's error, and with a traceback after a bug."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.foundation import command_line
from tests.conftest import REPO, run

STAGES = {
    "sample": (["--out", "params.yaml/x"], "params.yaml"),
    "convert": (["--root", "no", "--tables", "no", "--out", "o", "--metrics", "m"], "no not found; put the set there"),
    "train": (["--coco", "no", "--out", "o", "--work", "w", "--metrics", "m"], "no/label_map.json not found"),
    "evaluate": (
        ["--checkpoint", "no", "--coco", "no", "--root", "no", "--tables", "no", "--out", "o", "--metrics", "m"],
        "no/panoptic.json not found",
    ),
    "export": (
        ["--variant", "onnx", "--checkpoint", "no", "--coco", "no", "--out", "o", "--metrics", "m"],
        "no/panoptic.json not found",
    ),
    "simplify": (["--exported", "no", "--out", "o", "--metrics", "m"], "no/graph.json not found"),
    "precision": (
        ["--precision", "fp16", "--graph", "no", "--reference", "no", "--out", "o", "--metrics", "m"],
        "no/graph.json not found",
    ),
    "engine": (
        ["--target", "nosuch", "--graph", "no", "--out", "o", "--timing-cache", "t", "--metrics", "m"],
        "must be among the targets ['cpu', 'gpu', 'rtx'], found 'nosuch'",
    ),
    "verify": (
        ["--target", "cpu", "--engine", "no", "--predictions", "no", "--coco", "no", "--out", "o", "--metrics", "m"],
        "no/engine.json not found",
    ),
    "benchmark": (
        ["--target", "cpu", "--engine", "no", "--checkpoint", "no", "--coco", "no", "--metrics", "m"],
        "no/panoptic.json not found",
    ),
    "report": (["--data", "no", "--pipeline", "dvc.yaml", "--out", "o"], "no/coco/statistics.json not found"),
    "commands.summary": (["--data", "no"], "no/metrics/evaluate.json not found; run `make all`"),
    "commands.build_engines": (["--target", "nosuch"], "must be among the targets"),
    "commands.engine": (["--target", "nosuch"], "must be among the targets"),
    "commands.import_results": (["no.tar"], "no.tar: No such file or directory"),
    "commands.predict": (["--engine", "no", "--source", "a\nb"], r"a\nb not found; give SOURCE a picture"),
    "commands.infer": (
        ["--checkpoint", "no", "--label-map", "no", "--source", "no", "--out", "o"],
        "no not found; give SOURCE a picture",
    ),
    "commands.data": (["--src", "no"], "no not found; give SRC a folder or a zip archive"),
    "commands.parameters_doc": (["--out", "params.yaml/x"], "params.yaml"),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_users_error_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())
    arguments, expected = STAGES[name]
    done = run("python", "-m", f"stages.{name}", *arguments, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def program(body: str, *options: str, cwd: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command whose `main` has this body."""
    lines = [
        before,
        "from stages.foundation import command_line",
        "def main():",
        *(f"    {line}" for line in body.split("\n")),
    ]
    code = "\n".join([*lines, "command_line.run(main)"])
    return run("python", *options, "-c", code, cwd=cwd, PYTHONPATH=str(REPO))


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("open('absent.json')", "absent.json: No such file or directory"),
        ("raise ValueError('found 3, expected 4')", "found 3, expected 4"),
        ("raise RuntimeError('target ada needs a GPU')", "target ada needs a GPU"),
        ("raise OSError", "OSError"),
        ("import absent_module", "No module named 'absent_module'; run `make env`, or install"),
        ("from json import absent_name", "cannot import name 'absent_name'"),
        (
            "import subprocess\nsubprocess.run(['false'], check=True)",
            "Command '['false']' returned non-zero exit status",
        ),
        (
            "import subprocess\nsubprocess.run('echo disk full >&2; exit 3', shell=True, check=True, "
            "capture_output=True)",
            "status 3. disk full",
        ),
        ("import cv2, numpy\ncv2.resize(numpy.zeros((0, 0)), (2, 2))", "OpenCV("),
    ],
)
def test_kinds_of_user_errors(body: str, line: str, tmp_path: Path) -> None:
    done = program(body, cwd=tmp_path)
    assert done.returncode == command_line.FAILED
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize("body", ["{}['absent']", "raise NotImplementedError", "None.shape", "assert False"])
def test_a_bug_keeps_its_traceback(body: str, tmp_path: Path) -> None:
    done = program(body, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_a_developer_sees_the_traceback_of_a_users_error(tmp_path: Path) -> None:
    done = program("raise ValueError('found 3')", "-X", "dev", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("\nfound 3\n")


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("return 7", 7), ("raise SystemExit(3)", 3)])
def test_the_status_of_a_command_is_passed_on(body: str, status: int, tmp_path: Path) -> None:
    done = program(body, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_command_has_errors_of_its_own(tmp_path: Path) -> None:
    body = "import zlib; from stages.foundation import command_line\ndef main(): zlib.decompress(b'no')\n"
    code = f"{body}command_line.run(main, user_errors=(zlib.error,))"
    done = run("python", "-c", code, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 1
    assert done.stderr.startswith("Error -3 while decompressing")


def test_ctrl_c_ends_without_a_traceback(tmp_path: Path) -> None:
    code = (
        "import signal, time; from stages.foundation import command_line\n"
        # A shell's background jobs, such as `make test &`, ignore Ctrl-C, and so do the processes that they start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n    print('started', flush=True)\n    time.sleep(60)\n"
        "command_line.run(main)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=30)
    assert (started.returncode, stderr) == (130, "")


def test_opencv_is_not_loaded_for_its_error(tmp_path: Path) -> None:
    done = program("import sys\nraise ValueError('cv2' in sys.modules)", cwd=tmp_path)
    assert done.stderr == "False\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("swallowed", ["", "except BaseException: pass", "except BaseException: raise SystemExit(0)"])
def test_a_signal_is_the_status_whatever_becomes_of_its_exception(
    tmp_path: Path, number: signal.Signals, swallowed: str
) -> None:
    code = f"""
import signal, sys, time
from pathlib import Path
from stages.foundation import command_line, files
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, has it ignored
def main():
    try:
        with files.atomic_write(Path({str(tmp_path / "out")!r})) as draft:
            draft.write_text("half")
            print("started", flush=True)
            time.sleep(60)
    {swallowed or "finally: pass"}
command_line.run(main)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        started.send_signal(number)
        _, stderr = started.communicate(timeout=30)
    assert (started.returncode, stderr) == (128 + number, "")
    assert not list(tmp_path.iterdir()), "neither a draft nor a lock"


def test_nothing_is_written_after_a_signal_that_python_swallowed(tmp_path: Path) -> None:
    """Exceptions of fork's callbacks are printed and swallowed, so the command goes on."""
    before = "import os, signal; os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))"
    body = (
        "import subprocess\nfrom pathlib import Path\nfrom stages.foundation import files\n"
        "pid = os.fork()\nif not pid: os._exit(0)\nprint('went on', flush=True)\nfiles.write_json(Path('out'), 1)"
    )
    done = program(body, cwd=tmp_path, before=before)
    assert (done.returncode, done.stdout) == (143, "went on\n")
    assert not list(tmp_path.iterdir())


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    body = "import os, signal\nsignal.raise_signal(signal.SIGHUP)\nprint('goes on')"
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    done = program(body, cwd=tmp_path, before=ignore)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_characters_that_can_not_be_printed_are_escaped() -> None:
    """A library's message can hold bytes of a damaged file: line ends of other kinds, and a terminal's commands."""
    shown = command_line.message(ValueError("a\x0bb\x85c\u2028d\x1b[31m é\nsecond"))
    assert shown == "a\\x0bb\\x85c\\u2028d\\x1b[31m é\nsecond"
