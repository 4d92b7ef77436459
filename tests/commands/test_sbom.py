"""The bill of materials from the real uv.lock by the real uv, and what packages state as their licence."""

import json
import re
from email.message import Message
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from stages.commands import sbom
from tests.conftest import REPO, must, run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sbom") / "new folder/sbom.cdx.json"
    must("python", "-m", "stages.commands.sbom", "--out", str(out), "--extras=-tensorrt", cwd=REPO)
    return out


def test_it_is_cyclonedx(written: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(written.read_text()) is None


def test_the_same_lock_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    shown = must(
        "python", "-m", "stages.commands.sbom", "--out", str(tmp_path / "again.json"), cwd=REPO, TZ="Asia/Tokyo"
    )
    assert (tmp_path / "again.json").read_bytes() == written.read_bytes()
    unstated = [each["name"] for each in json.loads(written.read_text())["components"] if "licenses" not in each]
    assert f"no licence in the metadata of {len(unstated)} packages: {', '.join(unstated)}\n" in shown


def test_packages_have_their_licences_hashes_and_scope(written: Path) -> None:
    bom = json.loads(written.read_text())
    assert bom["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    found = {each["name"]: each for each in bom["components"]}
    assert len(found) == len(bom["components"]) > 200
    assert found["pyyaml"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["tqdm"]["licenses"] == [{"expression": "MPL-2.0 AND MIT"}]
    assert found["torch"]["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256"
    assert (found["torch"]["scope"], found["pytest"]["scope"]) == ("required", "excluded")
    assert "adlfs" not in found, "an extra that was not asked for"
    stated = [each for each in found.values() if "licenses" in each]
    assert len(stated) > 0.95 * len(found)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: mit", "License: GPL"], [{"license": {"id": "MIT"}}]),
        (["License-Expression: Apache-2.0 or mit"], [{"expression": "Apache-2.0 OR MIT"}]),
        (["License: LicenseRef-NVIDIA-Proprietary"], [{"license": {"name": "LicenseRef-NVIDIA-Proprietary"}}]),
        (["License: BSD-3-Clause", "Classifier: License :: OSI Approved"], [{"license": {"id": "BSD-3-Clause"}}]),
        (["Classifier: License :: OSI Approved :: MIT License"], [{"license": {"id": "MIT"}}]),
        (["License: MIT License", "Classifier: License :: OSI Approved :: MIT License"], [{"license": {"id": "MIT"}}]),
        (
            # Which of the two is true, who uses it must find out.
            ["License: Proprietary", "Classifier: License :: OSI Approved :: Apache Software License"],
            [{"license": {"name": "Proprietary"}}, {"license": {"name": "Apache Software License"}}],
        ),
        (
            ["License: Copyright (c) 2015\n  All rights", "Classifier: License :: OSI Approved :: BSD License"],
            [{"license": {"name": "BSD License"}}],
        ),
        (["License: UNKNOWN"], []),
        (["License: ", "Classifier: Programming Language :: Python", "Classifier: License :: OSI Approved"], []),
        ([], []),
    ],
)  # fmt: skip
def test_a_licence_is_what_the_package_states(lines: list[str], expected: list[dict]) -> None:
    metadata = Message()
    for line in lines:
        key, _, value = line.partition(": ")
        metadata[key] = value
    assert sbom.licences(metadata) == expected


def test_what_is_not_as_locked_is_refused(tmp_path: Path) -> None:
    """The lock's packages must be the installed ones, whose licences are read."""
    out = tmp_path / "x.json"
    done = run("python", "-m", "stages.commands.sbom", "--out", str(out), "--extras=no-such-extra", cwd=REPO)
    assert done.returncode == 1
    assert done.stderr.startswith("uv export: error: Extra `no-such-extra` is not defined")
    for name in ("pyproject.toml", "uv.lock"):
        text = (
            (REPO / name)
            .read_text()
            .replace('name = "hydra-core"\nversion = "1.3.8"', 'name = "hydra-core"\nversion = "1.3.7"')
        )
        (tmp_path / name).write_text(re.sub(r"(hydra[-_]core(==|-))1\.3\.8", r"\g<1>1.3.7", text))
    done = run("python", "-m", "stages.commands.sbom", "--out", str(out), cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.stderr == "hydra-core 1.3.7 of uv.lock, found 1.3.8 installed; run `make env`\n"
    assert not out.exists()
