"""Every property of this folder on random examples, each for FUZZ_SECONDS."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO, must

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_minutes")


def properties() -> dict[str, Any]:
    found = {}
    for module in MODULES:
        content = vars(importlib.import_module(f"tests.fuzz.{module}"))
        found |= {f"{module}-{name}": test for name, test in content.items() if hasattr(test, "for_seconds")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("test", properties().values(), ids=properties())
def test_holds_for_minutes(test: Any) -> None:
    test.for_seconds(float(os.environ.get("FUZZ_SECONDS", "60")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["png", "rle", "zip"])
def test_no_input_that_reaches_new_code_breaks_a_reader(name: str) -> None:
    seconds = int(float(os.environ.get("FUZZ_SECONDS", "60")))
    must(
        "python", "-m", "tests.fuzz.coverage_guided", name, f"-max_total_time={seconds}", cwd=REPO, PYTHONPATH=str(REPO)
    )
