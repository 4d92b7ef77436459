import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from stages import config

REPO = Path(__file__).resolve().parents[1]
TABLES = REPO / "conf/tables"


@pytest.fixture(scope="session")
def vistas_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small generated set in Vistas layout: two training scenes and one for validation."""
    from stages import config, sample

    root = tmp_path_factory.mktemp("vistas") / "set"
    sample.build(root, config.Sample(train_images=2, val_images=1, height_px=128, width_px=192))
    return root


@pytest.fixture(scope="session")
def data_config() -> config.Data:
    return config.load(REPO / "params.yaml").data


@pytest.fixture(scope="session")
def tao_wheel() -> None:
    """TAO imported; its many warnings are its own."""
    from stages.tao import wheel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wheel.prepare()
        importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on PATH; never raises."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    full = {**os.environ, "PATH": path, **env}
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, check=False)
