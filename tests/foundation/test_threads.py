"""PyTorch's threads sleep soon, and the user's own settings stay."""

import subprocess
import sys

import pytest

from stages.foundation import threads

NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1000", "0", None]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", "0", None]),
        ({"OMP_WAIT_POLICY": "active"}, [None, None, "active"]),
    ],
)
def test_what_the_user_has_set_stays(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: list[str | None]
) -> None:
    env: dict[str, str] = dict(given)
    monkeypatch.setattr(threads.os, "environ", env)
    threads.sleep_soon()
    assert [env.get(name) for name in NAMES] == expected


def test_openmp_takes_it_where_a_command_sets_it() -> None:
    """libgomp prints what it has read when it is loaded, which is with PyTorch."""
    code = """
from stages.foundation import command_line
def main():
    import torch
command_line.run(main)
"""
    env = {"OMP_DISPLAY_ENV": "verbose", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
