import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def vistas_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small generated set in Vistas layout: two training scenes and one for validation."""
    from stages import config, sample

    root = tmp_path_factory.mktemp("vistas") / "set"
    sample.build(root, config.Sample(train_images=2, val_images=1, height_px=128, width_px=192))
    return root


@pytest.fixture(scope="session")
def data_config() -> "object":
    from stages import config

    return config.load(REPO / "params.yaml").data


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on PATH; never raises."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    full = {**os.environ, "PATH": path, **env}
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, check=False)
