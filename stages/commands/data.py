"""data: a set in Mapillary Vistas layout, folder or zip archive -> checked and tracked by DVC at data/raw/NAME.

Run by `make data SRC=...`; no DVC stage. The files go into DVC's cache once, and data/raw/NAME is links to them where
the file system has links (cache.type in .dvc/config). What was found is printed; a set with problems is tracked only
with --on-error skip.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from stages import config
from stages.foundation import files
from stages.vistas import check

SHOWN = 10
"""Problems that are printed."""


def build(src: Path, out: Path, on_error: config.OnError, name: str = "") -> str:
    """Check the set at `src` and let DVC track it at `out`; returns what was found. `name` is of its own config file.

    Raises FileExistsError where there is something at `out`, FileNotFoundError or ValueError, saying what was found,
    where `src` is no such set or has problems, RuntimeError with what DVC says.
    """
    if out.exists() and out.resolve() != src.resolve():
        mend = f"dvc remove --outs {out}.dvc" if Path(f"{out}.dvc").exists() else f"rm -r {out}"
        raise FileExistsError(f"{out} is there already; remove it ({mend}) or choose another NAME")
    there = out.exists()
    if src.is_dir():
        text = _checked(src, on_error, name)
        if not there:
            # Not `dvc add --out`, which leaves a second copy of each file in the cache (DVC 3.67).
            with files.aside(out) as draft:
                subprocess.run(["cp", "-rL", "--reflink=auto", "--", str(src), str(draft)], check=True)
    elif zipfile.is_zipfile(src):
        with files.aside(out) as draft:
            content = draft / "content"
            _extract(src, content)
            text = _checked(_top(content), on_error, name)
            for path in _top(content).iterdir():
                path.rename(draft / path.name)
            shutil.rmtree(content)
    else:
        raise FileNotFoundError(f"{src} is neither a folder nor a zip archive; give SRC a set in Vistas layout")
    done = subprocess.run(["dvc", "add", str(out)], check=False, capture_output=True, text=True)
    if done.returncode:
        if not there:
            shutil.rmtree(out)
        raise RuntimeError(f"dvc add: {done.stderr.strip()}")
    return text


def _checked(folder: Path, on_error: config.OnError, name: str) -> str:
    lines, problems = [], []
    for report in check.check(folder, name):
        counts = ", ".join(f"{name} {number}" for name, number in sorted(report.pictures.items()))
        lines.append(
            f"{report.version}: {counts} pictures; {report.labels} labels in {report.config.name}, evaluated: "
            f"{report.evaluated_things} things, {report.evaluated_stuff} stuff; {len(report.problems)} problems"
        )
        problems += report.problems
    lines += problems[:SHOWN] + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])
    text = "\n".join(lines)
    if problems and on_error is config.OnError.fail:
        raise ValueError(f"{text}\nnot tracked; mend them, or add ARGS='--on-error skip' and set data.on_error to skip")
    return text


def _extract(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{archive}: {name!r} leaves the archive; pack it anew")
        content.extractall(folder)


def _top(folder: Path) -> Path:
    """The folder, or the only one in it, as archives often have."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def main() -> int:
    """Command line of `make data`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path, required=True, help="folder or zip archive of the set")
    parser.add_argument("--name", default="", help="folder under --raw; default: the source's name")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder that sets lie in")
    parser.add_argument("--config", default="", help="the set's config file, where it has another name than Vistas'")
    choices = [choice.value for choice in config.OnError]
    parser.add_argument("--on-error", choices=choices, default="fail", help="whether a set with problems is tracked")
    args = parser.parse_args()
    src = args.src.resolve()
    out = args.raw / (args.name or (src.name if src.is_dir() else src.stem))
    try:
        print(build(args.src, out, config.OnError(args.on_error), args.config))
    except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError, zipfile.BadZipFile, zlib.error) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{out} is tracked; add {out}.dvc to git, and set data.root to {out} in conf/data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
