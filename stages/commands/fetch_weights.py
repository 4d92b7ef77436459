"""`make weights`: download the ImageNet weights of model.backbone.pretrained_weights, tracked by DVC.

They come from the original Swin's releases (github.com/microsoft/Swin-Transformer). `dvc import-url` writes address and
hash to FILE.dvc, which belongs into git; the file itself goes to DVC's cache and remote. Cost: a download of 100 to
800 MB, once.
"""

import sys
from pathlib import Path

from stages import config
from stages.foundation import command_line, files, processes

SERVER = "https://github.com/SwinTransformer/storage/releases/download"
RELEASES = {
    "swin_tiny_patch4_window7_224_22k.pth": "v1.0.8",
    "swin_small_patch4_window7_224_22k.pth": "v1.0.8",
    "swin_base_patch4_window12_384_22k.pth": "v1.0.0",
    "swin_large_patch4_window12_384_22k.pth": "v1.0.0",
}
"""File -> release: weights trained on ImageNet-22k, one file for each of TAO's sizes."""


def build(path: Path, sha256: str, server: str = SERVER) -> str:
    """Download `path` from a release unless it exists; return its SHA-256.

    Raises ValueError if no release has a file of that name, or its SHA-256 is not `sha256` (empty: any), and
    RuntimeError if the download fails.
    """
    if not path.exists():
        if path.name not in RELEASES:
            raise ValueError(
                f"{path} not found, and no release of Swin has it, expected one of {sorted(RELEASES)}; set "
                "model.backbone.pretrained_weights to one of them, or put your file there"
            )
        url = f"{server}/{RELEASES[path.name]}/{path.name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dvc", "import-url", url, str(path)]
        done = processes.run(command, capture=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RuntimeError(
                f"{url} can't be downloaded: {reason[0] if reason else f'exit status {done.returncode}'}; without "
                f"internet access copy the file to {path} and run `dvc add {path}`"
            )
    found = files.sha256(path)
    if sha256 and found != sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {sha256}; delete it and run `make weights`, or set "
            "model.backbone.pretrained_weights_sha256 if you trust this one"
        )
    return found


def main() -> None:
    """Command line of `make weights`."""
    command_line.parser(__doc__).parse_args()
    backbone = config.load().model.backbone
    if not backbone.pretrained_weights:
        print("model.backbone.pretrained_weights is empty: the network starts from random weights")
        return
    found = build(Path(backbone.pretrained_weights), backbone.pretrained_weights_sha256)
    print(f"{backbone.pretrained_weights}: SHA-256 {found}, for model.backbone.pretrained_weights_sha256")


if __name__ == "__main__":
    command_line.run(main)
