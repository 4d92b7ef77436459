"""params: conf/ -> params.yaml, by the composition that DVC itself uses.

`make params [PROFILE=name] [OVERRIDES='key=value ...']`. The file is replaced only when the result is valid. With
`--out params.json` the same for machines that only build and run engines and have no YAML reader.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from stages import config
from stages.foundation import files
from stages.tao import spec


def build(conf: Path, out: Path, overrides: list[str]) -> bool:
    """Compose conf/config.yaml with Hydra `overrides`, check it and write `out`; return whether `out` changed.

    Raises ValueError with place, key, rule and value for what is wrong in a file or an override, OSError for a file
    that can't be read or written.
    """
    from dvc.utils.hydra import compose_and_dump

    from stages.commands import composition

    if not (conf / "config.yaml").is_file():
        raise FileNotFoundError(f"{conf / 'config.yaml'} not found; run this in the repository's root, or give --conf")
    old = out.read_bytes() if out.exists() else None
    with files.atomic_write(out) as draft:
        # DVC chooses the format by the file's suffix.
        composed = draft.with_name(f"{draft.name}.yaml")
        try:
            try:
                compose_and_dump(composed, str(conf.resolve()), None, "config", str(conf.resolve().parent), overrides)
            except composition.ERRORS as error:
                raise ValueError(composition.problem(error, conf, overrides)) from error
            composition.check_files(composition.parts(conf, overrides))
            checked = config.load(composed)
            composition.check_for_dvc(composed)
            spec.check(checked)
            if out.suffix == ".json":
                draft.write_text(json.dumps(config.plain(checked), indent=2) + "\n", encoding="utf-8")
            else:
                composed.rename(draft)
        finally:
            composed.unlink(missing_ok=True)
        return draft.read_bytes() != old


def split(text: str) -> list[str]:
    """The overrides in a text, parted by blanks outside quotes and brackets, with the quotes that Hydra reads.

    Quotes around a whole override, a list, a mapping or a quoted text are the shell's habit and taken off.
    """
    found, quote, depth = [""], "", 0
    pieces = re.findall(r"\\.|.", text, re.DOTALL)
    for piece in pieces:
        if not quote and depth <= 0 and piece.isspace():
            found.append("")
            continue
        if quote:
            quote = "" if piece == quote else quote
        elif piece in "'\"":
            quote = piece
        else:
            depth += (piece in "([{") - (piece in ")]}")
        found[-1] += piece
    whole = (re.sub(r"^(['\"])(.*)\1$", r"\2", override, flags=re.DOTALL) for override in found if override)
    return [re.sub(r"^([^=]+=)(['\"])(['\"\[{].*['\"\]}])\2$", r"\1\3", each, flags=re.DOTALL) for each in whole]


def main() -> int:
    """Command line of `make params`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="folder of the Hydra configs")
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write, .yaml or .json")
    parser.add_argument("--profile", default="", help="a file of conf/profile; default: conf/config.yaml's choice")
    parser.add_argument("--overrides", default="", help="Hydra overrides in one text, parted by blanks")
    parser.add_argument("more", metavar="override", nargs="*", help="a Hydra override, such as train.epochs=3")
    args = parser.parse_args()
    try:
        chosen = _profile(args.conf, args.profile) + split(args.overrides) + args.more
        changed = build(args.conf, args.out, chosen)
    except (ValueError, OSError) as error:
        print(f"{args.out} is left as it was: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {'updated' if changed else 'up to date'}")
    return 0


def _profile(conf: Path, name: str) -> list[str]:
    """The override that chooses a profile. Raises ValueError for one whose file is not there."""
    if not name:
        return []
    if not config.is_name(name, "._-/") or not (conf / f"profile/{name}.yaml").is_file():
        there = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
        raise ValueError(f"PROFILE: must be the name of a file in {conf / 'profile'}, one of {there}, found {name!r}")
    return [f"profile='{name}'"]  # in quotes, or Hydra would take 2024 for a number


if __name__ == "__main__":
    sys.exit(main())
