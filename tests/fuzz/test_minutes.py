"""Every property of this folder on random examples, each for FUZZ_SECONDS."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

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
