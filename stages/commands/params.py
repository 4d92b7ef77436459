"""params: conf/ -> params.yaml, by the composition that DVC itself uses.

`make params [PROFILE=name] [OVERRIDES='key=value ...']`. The file is replaced only when the result is valid. `--out
params.json` writes JSON, for machines that only build and run engines and have no YAML reader.
"""

import json
import re
from pathlib import Path

from stages import config
from stages.foundation import command_line, files
from stages.tao import spec


def build(conf: Path, out: Path, overrides: list[str]) -> bool:
    """Compose conf/config.yaml with Hydra `overrides`, check it and write `out`; return whether `out` changed.

    Raises ValueError with place, key, rule and value for a fault in a file or an override, and OSError for a file that
    can't be read or written.
    """
    from dvc.utils.hydra import compose_and_dump

    from stages.config import composition

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
    """The overrides in a text: it is split at blanks that are outside of quotes and brackets.

    Quotes that Hydra needs stay. Quotes around a whole override, a list, a mapping or a quoted text are removed: people
    write them for the shell, which has not seen this text.
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


def main() -> None:
    """Command line of `make params`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="folder of the Hydra configs")
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write, .yaml or .json")
    parser.add_argument("--profile", default="", help="a file of conf/profile; default: conf/config.yaml's choice")
    parser.add_argument("--overrides", default="", help="Hydra overrides in one text, separated by blanks")
    parser.add_argument("more", metavar="override", nargs="*", help="a Hydra override, such as train.epochs=3")
    args = parser.parse_args()
    try:
        chosen = _profile(args.conf, args.profile) + split(args.overrides) + args.more
        changed = build(args.conf, args.out, chosen)
    except (ValueError, OSError) as error:
        raise ValueError(f"{args.out} is unchanged: {command_line.message(error)}") from error
    print(f"{args.out}: {'updated' if changed else 'up to date'}")


def _profile(conf: Path, name: str) -> list[str]:
    """The override that chooses a profile. Raises ValueError where its file is missing."""
    if not name:
        return []
    if not config.is_name(name, "._-/") or not (conf / f"profile/{name}.yaml").is_file():
        there = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
        raise ValueError(f"PROFILE: must be the name of a file in {conf / 'profile'}, one of {there}, found {name!r}")
    return [f"profile='{name}'"]  # in quotes, or Hydra would take 2024 for a number


if __name__ == "__main__":
    command_line.run(main)
