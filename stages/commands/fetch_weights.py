"""fetch_weights: the ImageNet weights of model.backbone.pretrained_weights, versioned by DVC. No DVC stage.

From the original Swin's releases (github.com/microsoft/Swin-Transformer), by `dvc import-url`: FILE.dvc has address and
hash and goes into git, the file into DVC's cache and remote.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from stages import config
from stages.foundation import files

SERVER = "https://github.com/SwinTransformer/storage/releases/download"
RELEASES = {
    "swin_tiny_patch4_window7_224_22k.pth": "v1.0.8",
    "swin_small_patch4_window7_224_22k.pth": "v1.0.8",
    "swin_base_patch4_window12_384_22k.pth": "v1.0.0",
    "swin_large_patch4_window12_384_22k.pth": "v1.0.0",
}
"""File -> release. Those of ImageNet-22k, one for each of TAO's sizes."""


def build(path: Path, sha256: str, server: str = SERVER) -> str:
    """Fetch `path` unless it is there, and return its SHA-256.

    Raises ValueError for a file that no release has or with another hash than `sha256`, RuntimeError where the server
    can't be reached.
    """
    if not path.exists():
        if path.name not in RELEASES:
            raise ValueError(
                f"{path}: not one of {sorted(RELEASES)}; set model.backbone.pretrained_weights to one of them, or put "
                "your file there"
            )
        url = f"{server}/{RELEASES[path.name]}/{path.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dvc", "import-url", url, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RuntimeError(
                f"{url} can't be fetched: {reason[0] if reason else f'exit status {done.returncode}'}; without the "
                f"internet bring the file to {path} yourself and run `dvc add {path}`"
            )
    found = files.sha256(path)
    if sha256 and found != sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {sha256}; delete it and run `make weights`, or, if you trust "
            "this one, set model.backbone.pretrained_weights_sha256"
        )
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    try:
        backbone = config.load().model.backbone
        if not backbone.pretrained_weights:
            parser.exit(0, "model.backbone.pretrained_weights is empty: the network starts from random weights\n")
        found = build(Path(backbone.pretrained_weights), backbone.pretrained_weights_sha256)
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{backbone.pretrained_weights}: SHA-256 {found}, for model.backbone.pretrained_weights_sha256")


if __name__ == "__main__":
    main()
