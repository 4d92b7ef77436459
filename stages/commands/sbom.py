"""sbom: write the software bill of materials, a CycloneDX 1.5 file, from uv.lock. Not a DVC stage.

Run by `make sbom`. uv exports the packages that `make env` installs, with versions, hashes and dependencies. The
licences are added from the installed packages, as these state them: License-Expression (PEP 639), else License and
classifiers. What is for development alone has the scope `excluded`. The same uv.lock, extras and uv give the same
bytes, so the file has neither a date nor a serial number.
"""

import importlib.metadata
import json
import re
import subprocess
import tomllib
from email.message import Message
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from stages.foundation import command_line, files

Json = dict[str, Any]
CLASSIFIERS = {
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""Classifiers of PyPI that name one licence exactly -> its SPDX identifier. "BSD License" and others name several."""
LINE = 100
"""Characters of a licence's name. A longer one is its text."""


def build(root: Path, out: Path, extras: list[str]) -> list[str]:
    """Write the list for the project at `root` with `extras` of pyproject.toml; return packages that state no licence.

    Raises RuntimeError where uv fails, and where an installed package is not the locked one.
    """
    chosen = [word for extra in extras for word in ("--extra", extra)]
    bom, runtime = _export(root, *chosen), _export(root, *chosen, "--no-dev")
    needed = {each["purl"] for each in runtime["components"]}
    del bom["serialNumber"], bom["metadata"]["timestamp"]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bom["metadata"]["component"]["licenses"] = _spdx(str(project["license"]))
    unstated = []
    for each in bom["components"]:
        each["scope"] = "required" if each["purl"] in needed else "excluded"
        if found := licences(_installed(each["name"], each["version"])):
            each["licenses"] = found
        else:
            unstated.append(str(each["name"]))
    files.write_json(out, bom)
    return unstated


def licences(metadata: Message) -> list[Json]:
    """Return the value of `licenses` in CycloneDX for the metadata of a package: all that it states, none guessed."""
    if expression := metadata.get("License-Expression"):
        return _spdx(expression)
    text = metadata.get("License", "").strip()
    if found := _spdx(text):
        return found
    names = [text] if text and text != "UNKNOWN" and "\n" not in text and len(text) <= LINE else []
    labels = [label.split(" :: ")[1:] for label in metadata.get_all("Classifier", []) if label.startswith("License ::")]
    names += [label[-1] for label in labels if label[-1] != "OSI Approved"]
    # A name twice, such as "MIT License" in License and in a classifier, once.
    named = dict.fromkeys(CLASSIFIERS.get(name, name) for name in names)
    return [_spdx(name)[0] if name in CLASSIFIERS.values() else {"license": {"name": name}} for name in named]


def _spdx(text: str) -> list[Json]:
    """Return the licence of an SPDX expression; none where the text is no such expression."""
    try:
        expression = str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return []
    if expression.startswith("LicenseRef-") and " " not in expression:
        return [{"license": {"name": expression}}]
    return [{"expression": expression} if re.search(r"[ (]", expression) else {"license": {"id": expression}}]


def _export(root: Path, *options: str) -> Json:
    command = ["uv", "export", "--quiet", "--frozen", "--format", "cyclonedx1.5", *options]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FileNotFoundError("uv not found; run `make sbom`, which knows where `make env` put it") from error
    if done.returncode:
        raise RuntimeError(f"uv export: {' '.join(done.stderr.split())}")
    content: Json = json.loads(done.stdout)
    return content


def _installed(name: str, version: str) -> Message:
    """Return the metadata of an installed package. Raises RuntimeError where it is not that version."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(
            f"{name} {version} of uv.lock is not installed; run `make env`, with its extra in EXTRAS"
        ) from error
    if found.version != version:
        raise RuntimeError(f"{name} {version} of uv.lock, found {found.version} installed; run `make env`")
    return found.metadata  # type: ignore[return-value]  # an email.message.Message


def main() -> None:
    """Command line of `make sbom`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/sbom.cdx.json"), help="file to write")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, as in `make env EXTRAS=...`")
    args = parser.parse_args()
    extras = [name for name in re.split(r"[\s,]+", args.extras) if name and not name.startswith("-")]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    unstated = build(Path.cwd(), args.out, extras)
    print(f"{files.printable(args.out)}: CycloneDX 1.5; look at it by any tool that reads CycloneDX")
    if unstated:
        print(f"no licence in the metadata of {len(unstated)} packages: {', '.join(unstated)}")


if __name__ == "__main__":
    command_line.run(main)
