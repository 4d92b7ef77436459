"""data: a set in Mapillary Vistas layout, folder or zip archive -> checked and tracked by DVC at data/raw/NAME.

Run by `make data SRC=...`; no DVC stage. The files go into DVC's cache once, and data/raw/NAME is links to them where
the file system has links (cache.type in .dvc/config). What was found is printed; a set with problems is tracked only
with --on-error skip. All that can be known is checked before a byte is copied, and a run that fails or is ended leaves
nothing at data/raw/NAME.
"""

import argparse
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages import config
from stages.foundation import files
from stages.raw_sets import archives, layouts, tracking
from stages.vistas import check, reader

SHOWN = 10
"""Problems that are printed."""


def build(src: Path, out: Path, on_error: config.OnError, name: str = "") -> str:
    """Check the set at `src` and let DVC track it at `out`; returns what was found. `name` is of its own config file.

    Raises FileNotFoundError or ValueError, saying what was found, where `src` is no such set or has problems,
    FileExistsError where there is something at `out`, RuntimeError where DVC can't track `out`, with what DVC says.
    """
    if not src.exists():
        step = "download it first" if re.match(r"[a-z0-9+]+:/", str(src)) else "give SRC a folder or a zip archive"
        raise FileNotFoundError(f"{src} not found; {step}")
    _check_places(src, out)
    if src.is_dir():
        return _folder(src, out, on_error, name)
    if src.is_file():
        return _archive(src, out, on_error, name)
    raise ValueError(f"{src} is neither a folder nor a file; give SRC a folder or a zip archive")


def _folder(src: Path, out: Path, on_error: config.OnError, name: str) -> str:
    _require_set(src, src, "give SRC={}")
    size = sum(_sizes(src))
    cache = tracking.cache(out)
    there = src.resolve() == out.resolve()
    if not there:
        _check_room(size, (out.parent, cache))
    text = _checked(src, on_error, name)
    if there:
        for folder, _, _ in os.walk(out):
            # DVC puts links in place of the files.
            Path(folder).chmod(Path(folder).stat().st_mode | stat.S_IRWXU)
        tracking.add(out, new=False)
        return text
    with files.atomic_write(out) as draft:
        # Not `dvc add --out`, which leaves a second copy of each file in the cache (DVC 3.67). Without the modes of the
        # source: DVC and people must be able to remove what is in a folder.
        command = ["cp", "-rL", "--no-preserve=mode", "--reflink=auto", "--", str(src), str(draft)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{src} can't be copied: {done.stderr.splitlines()[0]}; mend that and run it again")
    tracking.add(out, new=True)
    return text


def _archive(src: Path, out: Path, on_error: config.OnError, name: str) -> str:
    with archives.opened(src) as content:
        whole = zipfile.Path(content)
        top = layouts.top(whole, reader.lies_at)
        _require_set(src, top if reader.lies_at(top) else whole, "unpack the archive and give SRC its {}")
        _check_room(sum(info.file_size for info in content.filelist), (out.parent, tracking.cache(out)))
        with files.atomic_write(out) as draft:
            archives.unpack(content, layouts.path(top), draft)
            try:
                text = _checked(draft, on_error, name)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(str(error).replace(str(draft), str(src))) from error
    tracking.add(out, new=True)
    return text.replace(str(draft), str(out))


def _check_places(src: Path, out: Path) -> None:
    """Raise ValueError or FileExistsError where what is at `src` can't come to `out`."""
    for path in (out, *out.parents):
        if path.is_symlink():
            place = path.resolve()
            step = f"remove the link and give SRC={place}" if path == out else "put a folder in its place"
            raise ValueError(f"{path} is a link to {place}, and DVC tracks nothing behind links; {step}")
    here, there = src.resolve(), out.resolve()
    if here == there:
        return
    if there.is_relative_to(here):
        raise ValueError(f"{src} holds {out}, where the set would go; move the set's files to a folder of their own")
    if here.is_relative_to(there):
        raise ValueError(f"{src} lies in {out}, where the set would go; choose another NAME")
    if Path(f"{out}.dvc").exists():
        step = f"remove it (dvc remove --outs {out}.dvc) or choose another NAME"
        raise FileExistsError(f"{out}.dvc is there already; {step}")
    if out.exists():
        step = f"give SRC={out} to track what is there, or choose another NAME"
        raise FileExistsError(f"{out} is there already, untracked; {step}")


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file of a set. Raises ValueError for what can't be taken, OSError for what can't be listed."""
    root = folder.resolve()
    for place, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(place, name)
            _check_entry(path, root)
            yield path.stat().st_size


def _check_entry(path: Path, root: Path) -> None:
    """Raise ValueError where a file or a folder of a set can't be taken."""
    found = ""
    if not files.is_utf8(path.name):
        found = "a name that is not UTF-8, which DVC can't keep; rename it"
    elif not path.exists():
        found = "a link to nothing; restore it (dvc checkout, if DVC tracks the set) or delete it"
    elif path.is_symlink() and reader.leaves(path, root):
        found = f"a link to {path.resolve()}, outside of the set; put a copy there, as `cp -rL` makes of a whole set"
    elif path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        found = "a link to a folder that it lies in itself; delete it"
    elif not (path.is_file() or path.is_dir()):
        found = "a pipe, a socket or a device, expected files and folders; delete it"
    elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        found = "a file or folder that you may not read; give yourself the right (chmod -R u+rX) or ask its owner"
    if found:
        raise ValueError(f"{files.printable(path)}: {found}")


def _raise(error: OSError) -> None:
    raise error


def _check_room(size: int, places: Iterable[Path]) -> None:
    """Raise ValueError where one of the file systems that a copy goes to has too little room for `size` bytes."""
    for place in places:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < size:
            found = f"{free / 2**30:.1f} GiB free at {there}, and the set has {size / 2**30:.1f} GiB"
            raise ValueError(f"{found}; make room, or put the set in data/raw itself and give SRC that folder")


def _require_set(src: Path, folder: layouts.Folder, choose: str) -> None:
    if not reader.lies_at(folder):
        raise ValueError(f"{src} is no set in Vistas' layout: {layouts.explain(folder, reader.lies_at, choose)}")


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


def place(raw: Path, name: str, src: Path) -> Path:
    """Where a set goes: `name` under `raw`, or else the source's own place, if it lies there, or name.

    Raises ValueError for a name that can't be one of a folder, a DVC stage and an argument.
    """
    here, there = src.resolve(), raw.resolve()
    own = str(here.relative_to(there)) if here != there and here.is_relative_to(there) and src.is_dir() else ""
    chosen = name or own or (here.name if src.is_dir() else here.stem)
    parts = chosen.split("/")
    if len(parts) > 2 or not all(config.is_name(part) for part in parts):
        whose = "NAME" if name else "SRC's own name"
        better = "/".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("._-") or "set" for part in parts[-2:])
        rule = f"{config.name_rule()}, or two of them with a slash between"
        raise ValueError(f"{whose}: must be {rule}, found {chosen!r}; give NAME={better}")
    return raw / chosen


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
    # So that what was begun is removed, as after an interrupt.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        out = place(args.raw, args.name, args.src)
        print(build(args.src, out, config.OnError(args.on_error), args.config))
    except KeyboardInterrupt:
        print("interrupted; nothing was tracked", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, ValueError, RuntimeError) as error:
        # What the system says names no mend.
        step = "; mend that and run it again" if isinstance(error, OSError) and error.errno else ""
        print(f"{error}{step}", file=sys.stderr)
        return 1
    print(f"{out} is tracked; add {out}.dvc to git, and set data.root to {out} in conf/data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
