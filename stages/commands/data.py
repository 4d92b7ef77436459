"""data: check a data set as it is downloaded, a folder or a zip archive, and track it with DVC at data/raw/NAME.

Run by `make data SRC=...`. Not a DVC stage. DVC's cache stores each file once, and data/raw/NAME holds links to it if
the file system has them (cache.type in .dvc/config). The findings are printed. A set with problems is tracked only with
--on-error skip. Names, links, rights and disk space are checked before anything is copied. A run that fails or is
stopped leaves nothing at data/raw/NAME.
"""

import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages import config
from stages.foundation import command_line, files, processes
from stages.raw_sets import archives, layouts, tracking
from stages.sets import check, formats
from stages.vistas import reader

MAX_PROBLEMS_SHOWN = 10
"""Number of problems that are printed."""
MAX_FILES = 5_000_000
"""Most files and folders of a set."""
MAX_RATIO, RATIO_FROM_BYTES = 100, 100_000_000
"""Most bytes that an archive may unpack from each of its own, and the size from which that counts. Pictures and masks
are compressed already: sets have about 1, and JSON files alone about 20."""


def build(
    src: Path,
    out: Path,
    on_error: config.OnError,
    name: str = "",
    layout: config.Format = config.Format.auto,
    max_gib: int = config.Data.max_archive_gib,
) -> str:
    """Check the data set at `src`, track it with DVC at `out`, and return the findings as text of one or more lines.

    `name` is the name of the set's config file if it is not Vistas' own, else empty. `layout` is the set's format, or
    auto to find it. Raises FileNotFoundError or ValueError if `src` is no such set, has problems or is larger than
    `max_gib`, FileExistsError if something is at `out`, and RuntimeError with DVC's message if DVC can't track `out`.
    """
    if not src.exists():
        step = "download it first" if re.match(r"[a-z0-9+]+:/", str(src)) else "give SRC a folder or a zip archive"
        raise FileNotFoundError(f"{src} not found; {step}")
    _check_places(src, out)
    source = config.Source(config=name, format=layout)
    if src.is_dir():
        return _folder(src, out, on_error, source, max_gib)
    if src.is_file():
        return _archive(src, out, on_error, source, max_gib)
    raise ValueError(f"{src} is neither a folder nor a file; give SRC a folder or a zip archive")


def _folder(src: Path, out: Path, on_error: config.OnError, source: config.Source, max_gib: int) -> str:
    _require_set(src, src, source, "give SRC={}")
    sizes = list(_sizes(src))
    size = sum(sizes)
    cache = tracking.cache(out)
    in_place = src.resolve() == out.resolve()
    if not in_place:
        _check_room(size, (out.parent, cache))
    _check_amount(src, len(sizes), size, max_gib)
    text = _checked(src, on_error, source)
    if in_place:
        for folder, _, _ in os.walk(out):
            # DVC replaces the files by links, so it must be able to write to their folders.
            Path(folder).chmod(Path(folder).stat().st_mode | stat.S_IRWXU)
        tracking.add(out, new=False)
        return text
    with tracking.made_new(out):
        with files.atomic_write(out) as draft:
            # `dvc add --out` would leave a second copy of each file in the cache (DVC 3.67). The source's modes are not
            # kept, because DVC and users must be able to delete files from the copied folders.
            command = ["cp", "-rL", "--no-preserve=mode", "--reflink=auto", "--", str(src), str(draft)]
            done = processes.run(command, capture=True)
            if done.returncode:
                reason = done.stderr.splitlines()[0]
                raise RuntimeError(f"{src} can't be copied: {reason}; remove the cause and run it again")
        tracking.add(out, new=True)
    return text


def _archive(src: Path, out: Path, on_error: config.OnError, source: config.Source, max_gib: int) -> str:
    with archives.opened(src) as content:
        size = sum(info.file_size for info in content.filelist)
        packed = sum(info.compress_size for info in content.filelist)
        _check_amount(src, len(content.filelist), size, max_gib)
        if size > max(RATIO_FROM_BYTES, MAX_RATIO * packed):
            found = f"would unpack to {size / 2**30:.1f} GiB, {size / max(1, packed):.0f} times its own size"
            raise ValueError(
                f"{src} {found}, expected at most {MAX_RATIO}; if you trust it, unpack it and give SRC that"
            )
        whole = zipfile.Path(content)
        top = layouts.top(whole, formats.lies_at)
        _require_set(src, top if formats.lies_at(top) else whole, source, "unpack the archive and give SRC its {}")
        _check_room(size, (out.parent, tracking.cache(out)))
        with tracking.made_new(out):
            with files.atomic_write(out) as draft:
                archives.unpack(content, layouts.path(top), draft)
                try:
                    text = _checked(draft, on_error, source)
                except (FileNotFoundError, ValueError) as error:
                    raise type(error)(str(error).replace(str(draft), str(src))) from error
            tracking.add(out, new=True)
    return text.replace(str(draft), str(out))


def _check_places(src: Path, out: Path) -> None:
    """Raise ValueError or FileExistsError if `out` exists, is behind a link, or overlaps with `src`."""
    for path in (out, *out.parents):
        if path.is_symlink():
            place = path.resolve()
            step = f"remove the link and give SRC={place}" if path == out else "replace the link by a folder"
            raise ValueError(f"{path} is a link to {place}, and DVC can't track files behind a link; {step}")
    here, there = src.resolve(), out.resolve()
    if here == there:
        return
    if there.is_relative_to(here):
        raise ValueError(f"{src} contains {out}, the folder for the copy; move the set's files to their own folder")
    if here.is_relative_to(there):
        raise ValueError(f"{src} is inside {out}, the folder for the copy; choose another NAME")
    if Path(f"{out}.dvc").exists():
        step = f"remove it (dvc remove --outs {out}.dvc) or choose another NAME"
        raise FileExistsError(f"{out}.dvc already exists; {step}")
    if out.exists():
        step = f"give SRC={out} to track what is there, or choose another NAME"
        raise FileExistsError(f"{out} already exists and is not tracked; {step}")


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the size in bytes of each file and folder of a set.

    Raises ValueError as `_check_entry`, and OSError if a folder can't be listed.
    """
    root = folder.resolve()
    for place, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(place, name)
            _check_entry(path, root)
            yield path.stat().st_size


def _check_entry(path: Path, root: Path) -> None:
    """Raise ValueError if a file or a folder of the set at `root` can't be copied or tracked."""
    found = ""
    if not files.is_utf8(path.name):
        found = "the name is not UTF-8, and DVC can't store it; rename it"
    elif not path.exists():
        found = "a broken link; restore its target (`dvc checkout`, if DVC tracks the set) or delete the link"
    elif path.is_symlink() and reader.leaves(path, root):
        found = f"a link to {path.resolve()}, outside of the set; replace it by a copy (`cp -rL SET COPY` copies all)"
    elif path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        found = "a link to a folder that contains the link, so copying would never end; delete it"
    elif not (path.is_file() or path.is_dir()):
        found = "a pipe, a socket or a device, expected files and folders; delete it"
    elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        found = "no permission to read it; run `chmod -R u+rX` on it, or ask its owner"
    if found:
        raise ValueError(f"{files.printable(path)}: {found}")


def _raise(error: OSError) -> None:
    raise error


def _check_amount(src: Path, count: int, size: int, max_gib: int) -> None:
    """Raise ValueError if a set has more files or bytes than may be copied or unpacked."""
    if size > max_gib * 2**30:
        raise ValueError(
            f"{src} has {size / 2**30:.1f} GiB unpacked, expected at most {max_gib} (data.max_archive_gib); is it the "
            "right one? Then raise the limit"
        )
    if count > MAX_FILES:
        raise ValueError(f"{src} has {count} files, expected at most {MAX_FILES}; is it the right one?")


def _check_room(size: int, places: Iterable[Path]) -> None:
    """Raise ValueError if the file system of one of `places` has less than `size` bytes free."""
    for place in places:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < size:
            found = f"{free / 2**30:.1f} GiB free at {there}, and the set has {size / 2**30:.1f} GiB"
            raise ValueError(f"{found}; make room, or put the set in data/raw itself and give SRC that folder")


def _require_set(src: Path, folder: layouts.Folder, source: config.Source, choose: str) -> None:
    """Raise ValueError if `folder` of `src` is no set. `choose` is the advice if the subfolder {} is a set.

    A format that was named is checked when its set is opened.
    """
    if source.format is config.Format.auto and not formats.lies_at(folder):
        raise ValueError(f"{src} is no set in Vistas' layout: {layouts.explain(folder, formats.lies_at, choose)}")


def _checked(folder: Path, on_error: config.OnError, source: config.Source) -> str:
    """Check the set in `folder` and return the findings. Raises ValueError for problems unless `on_error` is skip."""
    lines, problems = check.check_set(folder, source)
    lines += problems[:MAX_PROBLEMS_SHOWN] + (
        [f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"] if len(problems) > MAX_PROBLEMS_SHOWN else []
    )
    text = "\n".join(lines)
    if problems and on_error is config.OnError.fail:
        raise ValueError(
            f"{text}\nnot tracked; correct these files, or add ARGS='--on-error skip' and set data.on_error to skip"
        )
    return text


def place(raw: Path, name: str, src: Path) -> Path:
    """Return the folder for a set: `name` under `raw`, or without a name the source's own place there or its own name.

    Raises ValueError for a name that is not allowed (config.name_rule): it must work as a folder, a DVC stage and an
    argument.
    """
    here, there = src.resolve(), raw.resolve()
    own = str(here.relative_to(there)) if here != there and here.is_relative_to(there) and src.is_dir() else ""
    chosen = name or own or (here.name if src.is_dir() else here.stem)
    parts = chosen.split("/")
    if len(parts) > 2 or not all(config.is_name(part) for part in parts):
        whose = "NAME" if name else "SRC's own name"
        plain = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("._-") or "set" for part in parts[-2:])
        better = "/".join(re.sub(r"(\.dvc)+$", "", part) for part in plain)
        rule = f"{config.name_rule()}, or two of them with a slash between"
        raise ValueError(f"{whose}: must be {rule}, found {chosen!r}; give NAME={better}")
    return raw / chosen


def main() -> None:
    """Command line of `make data`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--src", type=Path, required=True, help="folder or zip archive of the set")
    parser.add_argument("--name", default="", help="folder under --raw; default: the source's own name")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder that sets lie in")
    parser.add_argument("--config", default="", help="the set's config file, where it has another name than Vistas'")
    layouts_known = [choice.value for choice in config.Format]
    parser.add_argument("--format", choices=layouts_known, default="auto", help="layout; auto: found by its files")
    choices = [choice.value for choice in config.OnError]
    parser.add_argument(
        "--on-error", choices=choices, default="fail", help="fail: don't track a set with problems; skip: track it"
    )
    args = parser.parse_args()
    out = place(args.raw, args.name, args.src)
    cfg = config.load().data if Path("params.yaml").exists() else config.Data()
    on_error, layout = config.OnError(args.on_error), config.Format(args.format)
    print(build(args.src, out, on_error, args.config, layout, cfg.max_archive_gib))
    print(f"{out} is tracked; add {out}.dvc to git, and set data.root to {out} in conf/data")


if __name__ == "__main__":
    command_line.run(main)
