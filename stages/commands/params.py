"""params: conf/ -> params.yaml, by the composition that DVC itself uses.

`make params [PROFILE=name] [OVERRIDES='key=value ...']`. params.yaml records the profile and the overrides, and later
runs use them again. OVERRIDES states all overrides: those recorded before are dropped, by `OVERRIDES=` all of them.
Another PROFILE drops them too. The file is replaced only when the result is valid. `--out params.json` writes JSON, for
machines that only build and run engines and have no YAML reader.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

from hydra.errors import OverrideParseException

from stages import config
from stages.config import choice, composition
from stages.config.rules import RuleError
from stages.foundation import command_line, files
from stages.tao import spec
from stages.weights import backbone_sizes


def build(conf: Path, out: Path, overrides: list[str]) -> bool:
    """Compose conf/config.yaml with Hydra `overrides`, check it and write `out`; return whether `out` changed.

    What a params.yaml records takes no part in it.

    Raises ValueError with place, key, rule and value for a fault in a file or an override, and OSError for a file that
    can't be read or written.
    """
    from dvc.utils.hydra import compose_and_dump

    if not (conf / "config.yaml").is_file():
        raise FileNotFoundError(f"{conf / 'config.yaml'} not found; run this in the repository's root, or give --conf")
    composition.prepare(conf)
    old = out.read_bytes() if out.exists() else None
    with files.atomic_write(out) as draft:
        # DVC chooses the format by the file's suffix.
        composed = draft.with_name(f"{draft.name}.yaml")
        try:
            try:
                with choice.nothing_recorded():
                    compose_and_dump(
                        composed, str(conf.resolve()), None, "config", str(conf.resolve().parent), overrides
                    )
            except composition.ERRORS as error:
                raise ValueError(composition.problem(error, conf, overrides)) from error
            composition.check_files(composition.parts(conf, overrides))
            checked = check(composed, conf, overrides)
            if out.suffix == ".json":
                draft.write_text(json.dumps(config.plain(checked), indent=2) + "\n", encoding="utf-8")
            else:
                composed.rename(draft)
        finally:
            composed.unlink(missing_ok=True)
        return draft.read_bytes() != old


def check(composed: Path, conf: Path, overrides: list[str]) -> config.Config:
    """Check a composed file by all rules, TAO's and those of the weights that are there among them.

    Returns its content. Raises ValueError as `build`.
    """
    try:
        checked = config.load(composed)
    except RuleError as error:
        raise ValueError(composition.placed(error, conf, overrides)) from error
    composition.check_for_dvc(composed)
    for mode in config.Mode:
        # Files for the loader of another mode are refused too: TAO would ignore them.
        model, deploy = replace(checked.model, mode=mode), replace(checked.deploy, mode=mode)
        spec.check(replace(checked, model=model, deploy=deploy))
    backbone_sizes.check(conf.parent, checked.model)
    return checked


def choose(record: Path, profile: str, overrides: list[str] | None) -> tuple[choice.Choice, str]:
    """The choice by the file `record` and what is stated now, and a line that says what of the record is dropped.

    profile: empty for the recorded one. overrides: None for the recorded ones; a list replaces them. Raises ValueError
    where the record is needed and can't be read.
    """
    try:
        former = choice.recorded(record)
    except ValueError:
        if not profile or overrides is None:
            raise
        former = choice.Choice(profile)
    start = (
        former if overrides is None and profile in ("", former.profile) else choice.Choice(profile or former.profile)
    )
    chosen = start.extended(overrides or [])
    dropped = [each for each in former.overrides if each not in chosen.overrides]
    if not dropped:
        return chosen, ""
    why = "OVERRIDES states all" if chosen.profile == former.profile else f"they were for profile {former.profile}"
    return chosen, f"dropped {' '.join(dropped)}, which {record} recorded: {why}"


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
    parser.add_argument("--profile", default="", help="a file of conf/profile; default: the recorded one")
    parser.add_argument(
        "--overrides", help="all Hydra overrides in one text, separated by blanks; default: as recorded"
    )
    parser.add_argument("more", metavar="override", nargs="*", help="a Hydra override, such as train.epochs=3")
    args = parser.parse_args()
    record = args.conf.parent / choice.FILE
    kept = not args.profile and args.overrides is None and not args.more
    stated = args.more if args.overrides is None else split(args.overrides) + args.more
    try:
        check_profile(args.conf, args.profile)
        chosen, dropped = choose(record, args.profile, stated if stated or args.overrides is not None else None)
        changed = build(args.conf, args.out, chosen.for_hydra())
    except composition.ERRORS as error:
        unreadable = isinstance(error, OverrideParseException)
        words = composition.problem(error, args.conf, []) if unreadable else command_line.message(error)
        problem = f"{args.out} is unchanged: {words}"
        if kept and re.search(r"\boverride |\.yaml not found", problem):
            problem += f"; {record} records the choice: state another by PROFILE=name or OVERRIDES='...'"
        raise ValueError(problem) from error
    if dropped:
        print(dropped)
    print(f"{args.out}: {'updated' if changed else 'up to date'}")
    print(f"{choice.recorded(args.out)} (recorded in {args.out})")
    model = config.load(args.out).model
    if (named := model.weights or model.backbone.pretrained_weights) and not (args.conf.parent / named).exists():
        step = "put it there" if model.weights else "`make weights` fetches it, or put it there"
        print(f"note: {named} is not here yet; {step} before `train`")


def check_profile(conf: Path, name: str) -> None:
    """Raise ValueError where a profile's file is missing. An empty name is the profile of the record."""
    if name and (not config.is_name(name, "._-/") or not (conf / f"profile/{name}.yaml").is_file()):
        there = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
        raise ValueError(f"PROFILE: must be the name of a file in {conf / 'profile'}, one of {there}, found {name!r}")


if __name__ == "__main__":
    command_line.run(main)
