"""Fuzzes the readers of PNG, run lengths and ZIP with atheris, which keeps inputs that reach new code.

python -m tests.fuzz.coverage_guided png -max_total_time=600

It starts from tests/fuzz/corpus/NAME, keeps what it finds in outputs/fuzz/NAME, and writes an input that breaks a
reader to outputs/fuzz/. Further arguments are libFuzzer's.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["stages.coco", "stages.sets", "stages.raw_sets", "stages.foundation", "zipfile"]
):
    import zipfile  # noqa: F401  # instrumented

    from stages.coco import png
    from stages.foundation import picture_limit
    from stages.raw_sets import archives
    from stages.sets import coco_masks, pngs
    from tests.support import fuzz

HERE = Path(__file__).resolve().parent
SIZE = (7, 9)


def read_png(content: bytes, folder: Path) -> None:
    fuzz.outcome(lambda: png.critical(content))
    (folder / "a.png").write_bytes(content)
    try:
        depth, kind = pngs.header(content)
    except ValueError:
        return
    fuzz.outcome(lambda: pngs.read(folder / "a.png", depth, kind, "fix"))


def read_rle(content: bytes, folder: Path) -> None:
    shape = {"size": [*SIZE], "counts": content.decode("latin-1")}
    found = fuzz.outcome(lambda: coco_masks.decode(folder / "a.json", {"id": 1, "segmentation": shape}, *SIZE))
    assert found is None or found[0].shape == SIZE


def read_zip(content: bytes, folder: Path) -> None:
    (folder / "a.zip").write_bytes(content)
    with tempfile.TemporaryDirectory(dir=folder) as name:

        def unpack() -> None:
            with archives.opened(folder / "a.zip") as archive:
                if sum(info.file_size for info in archive.filelist) < 1 << 20:
                    archives.unpack(archive, "", Path(name) / "out")

        fuzz.outcome(unpack)
        assert {path.name for path in Path(name).iterdir()} <= {"out"}


TARGETS = {"png": read_png, "rle": read_rle, "zip": read_zip}


def main() -> None:
    name, *arguments = sys.argv[1:]
    picture_limit.set_limit(1)
    out = Path("outputs/fuzz").resolve()
    (out / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", f"-artifact_prefix={out}/{name}-"]
        corpora = [str(out / name), str(HERE / "corpus" / name)]
        atheris.Setup(
            [sys.argv[0], *options, *arguments, *corpora], lambda content: TARGETS[name](content, Path(folder))
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
