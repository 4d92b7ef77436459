"""Explain an error in the files of conf/ or in an override in one line: place, key, rule, value as written, remedy.

Hydra and OmegaConf find the error (hydra_plugins/schema.py makes them strict). They name the file or the override, but
not the line, and not what was written where YAML has read a number. Both are looked up here, in the YAML nodes of the
file. Nothing on a device imports this module.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from stages.config import override_errors, yaml_types
from stages.config.rules import RuleError
from stages.foundation import text

ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError)
"""Errors that a composition raises for mistakes in what users write."""


_NO_ENVIRONMENT = "values of the environment are not for params.yaml, which git keeps"


def prepare(conf: Path) -> None:
    """Prepare a composition of the folder `conf`.

    From here on ${oc.env:...} is an error in this process: it would write what may be a secret into params.yaml. Raises
    ValueError for a file whose aliases stand for too many values, before Hydra writes them out.
    """

    def refuse(*_: object) -> None:
        raise ValueError(_NO_ENVIRONMENT)

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    for path in sorted(conf.rglob("*.yaml")):
        try:
            root = yaml_types.nodes(path)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue  # Explained once it is known whether the composition takes this file.
        try:
            text.check_aliases(path, root)
        except RecursionError:
            continue


def check_files(parts: list[tuple[Path, str]]) -> None:
    """Raise ValueError for a file of the composition that has only comments.

    A full disk leaves such files, and the defaults of the schema would silently replace what was in them.
    """
    for path, _ in parts:
        if yaml_types.nodes(path) is None:
            raise ValueError(f"{path}: found no key; restore it, or write {{}} to use all defaults of that section")


def check_for_dvc(path: Path) -> None:
    """Raise ValueError for the first value of a composed file that DVC reads differently.

    DVC reads YAML 1.2, where 0o17 is a number. Hydra and the stages read YAML 1.1, where 0o17 is text and 017 a number.
    """
    from dvc.utils.serialize import load_yaml

    for key, ours, theirs in _differences(text.read_yaml(path), load_yaml(path), ""):
        found = f"{ours!r}, which DVC reads as {theirs!r}"
        raise ValueError(f"{key}: must be text that is not a number in YAML 1.2, found {found}; choose another")


def _differences(ours: Any, theirs: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if list(ours) != list(theirs):
            yield key, list(ours), list(theirs)
        for name in ours.keys() & theirs.keys():
            yield from _differences(ours[name], theirs[name], f"{key}.{name}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(*pair, f"{key}[{i}]")
    elif type(ours) is not type(theirs) or ours != theirs:
        yield key, ours, theirs


def parts(conf: Path, overrides: list[str]) -> list[tuple[Path, str]]:
    """The files of `conf` that a composition takes, in its order, each with the key of the section that it fills.

    Raises Hydra's errors where a file is missing or can't be read.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(conf.resolve()), version_base=None):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("config", overrides, RunMode.RUN).defaults
    named = [(conf / f"{part.config_path}.yaml", part.package or "") for part in found]
    return [(path, key) for path, key in named if path.is_file()]


def _files(conf: Path, overrides: list[str]) -> list[tuple[Path, str]]:
    """As `parts`, or, where Hydra can't read one of these, all files with the section that their folder is named by."""
    try:
        return parts(conf, overrides)
    except ERRORS:
        found = [(path, path.parent.name) for path in sorted(conf.glob("*/*.yaml"))]
        return [(path, {"profile": "", "target": "targets.NAME"}.get(folder, folder)) for path, folder in found]


def problem(error: Exception, conf: Path, overrides: list[str]) -> str:
    """Return one line that explains an error which a composition raised."""
    words = " ".join(str(error).split())
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        path = Path(mark.name if mark else getattr(error, "name", conf))
        inside = path.is_relative_to(conf.resolve())
        return text.yaml_problem(conf / path.relative_to(conf.resolve()) if inside else path, error)
    if isinstance(error, UnicodeDecodeError):
        return next(_undecodable(conf), words)
    if isinstance(error, RecursionError):
        return next(
            _endless(conf), f"{conf}: nested too deeply to be read, or an alias within itself; correct the file"
        )
    if isinstance(error, OverrideParseException):
        return override_errors.unreadable(str(error.override))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        path = conf / f"{error.missing_cfg_file}.yaml"
        there = sorted(file.stem for file in path.parent.glob("*.yaml"))
        return f"{path} not found; in {path.parent} there are {there}"
    if "--multirun" in words:
        return override_errors.sweep(overrides)
    if "efaults" in words or "group override" in words:
        return next(_wrong_choices(words, conf, overrides), words)
    cause = next((e for e in _chain(error) if isinstance(e, OmegaConfBaseException)), None)
    if named := re.match(r"Error merging override (.*)|Could not override .* use \+(.*)", words):
        return override_errors.refused(cause, named[1] or named[2]) or words
    if named := re.match(r"In '(.+?)': \w+ raised", words):
        return (
            _in_file(conf / f"{named[1]}.yaml", parts(conf, overrides))
            or f"{named[1]}.yaml: {override_errors.bare(cause)}"
        )
    if isinstance(cause, InterpolationResolutionError | GrammarParseError):
        return _interpolation(cause, conf, overrides)
    return next(
        filter(None, (yaml_types.file_problem(path, key) for path, key in _files(conf, overrides))),
        words or repr(error),
    )


def placed(error: RuleError, conf: Path, overrides: list[str]) -> str:
    """Return a broken rule with the override or the line of a file that sets the value."""
    for override in reversed(OverridesParser.create().parse_overrides(overrides)):
        if re.match(rf"{re.escape(override.key_or_group)}(\W|$)", error.key):
            return f"override {override.input_line}: {error.finding}; {override_errors.another(error.key)}"
    for path, section in reversed(parts(conf, overrides)):
        if line := yaml_types.line_of(path, section, error.key):
            return f"{path}:{line}: {error}"
    return str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _undecodable(conf: Path) -> Iterator[str]:
    for path in sorted(conf.rglob("*.yaml")):
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            try:
                text.read(path)
            except ValueError as error:
                yield str(error)
            else:
                yield f"{path}: found UTF-16, which Hydra does not read; save the file as UTF-8"


def _endless(conf: Path) -> Iterator[str]:
    """Explain each file whose values have no end: an alias stands within the value that it repeats, or too many levels.

    Files that are not YAML are passed over.
    """
    for path in sorted(conf.rglob("*.yaml")):
        try:
            node = _around(yaml_types.nodes(path), ())
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        except RecursionError:
            yield f"{path}: nested too deeply to be read; write it with fewer levels"
            continue
        if node is not None:
            place = f"{path}:{node.start_mark.line + 1}"
            yield f"{place}: an alias within itself: this value is repeated inside of it; write out what is meant there"


def _around(node: yaml.Node | None, above: tuple[yaml.Node, ...]) -> yaml.Node | None:
    """The first node that contains itself, in `node` or above it. Depth first."""
    if any(node is each for each in above):
        return node
    inside = node.value if isinstance(node, yaml.CollectionNode) else []
    for each in inside:
        for child in each if isinstance(each, tuple) else (each,):
            if found := _around(child, (*above, node) if node is not None else above):
                return found
    return None


def _wrong_choices(words: str, conf: Path, overrides: list[str]) -> Iterator[str]:
    """Explain each choice of a file, in an override or in a defaults list, that is not the name of a file.

    `words` is Hydra's error: it names the override of a folder that no defaults list chooses from.
    """
    unmatched = re.findall(r"Could not override '([^']+)'\. No match", words)
    for override in OverridesParser.create().parse_overrides(overrides):
        folder = conf / override.key_or_group
        if folder.is_dir() and not isinstance(override.value(), str | list | dict | None):
            group, _, found = str(override.input_line).partition("=")
            fix = f"write {group}='{found}', with the quotes"
            yield f"override {override.input_line}: must be the name of a file in {folder}; {fix}"
        elif not override.is_add() and override.key_or_group in unmatched:
            groups = sorted({str(path.parent.relative_to(conf)) for path in conf.glob("*/*.yaml")})
            fix = f"write +{override.input_line} to add it"
            if override.key_or_group not in groups:
                fix = f"the folders to choose from are {groups}"
            yield f"override {override.input_line}: no defaults list names {override.key_or_group}; {fix}"
    for path in sorted(conf.rglob("*.yaml")):
        try:
            root = yaml_types.nodes(path)
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        for name, chosen in root.value if isinstance(root, yaml.MappingNode) else []:
            place = f"{path}:{chosen.start_mark.line + 1}"
            if name.value == "defaults" and not isinstance(chosen, yaml.SequenceNode):
                yield f"{place}: defaults: must be a list, found {yaml_types.words_of(chosen)}"
            elif name.value == "defaults":
                for node in chosen.value:
                    value = node.value[0][1] if isinstance(node, yaml.MappingNode) and node.value else node
                    if isinstance(value, yaml.ScalarNode) and value.tag.rpartition(":")[2] not in ("str", "null"):
                        place = f"{path}:{value.start_mark.line + 1}"
                        fix = f"write '{value.value}', with the quotes"
                        yield f"{place}: defaults: must be names of files, found {yaml_types.words_of(value)}; {fix}"


def _interpolation(cause: OmegaConfBaseException, conf: Path, overrides: list[str]) -> str:
    """Explain a ${...} that has no value.

    The error names the key, or the text in the braces, but not the line: that is the line with ${ that has most of
    these names. Comments, and files that are not part of the composition, are ignored.
    """
    words = ": ".join(filter(None, (cause.full_key, override_errors.bare(cause))))
    quoted = {name.strip("${}") for name in re.findall(r"['`]([^'`]+)['`]", words)}
    names = list(filter(None, quoted | {(cause.full_key or "").rpartition(".")[2]}))
    lines = [(f"override {each}", each) for each in overrides]
    for path, _ in _files(conf, overrides):
        lines += [(f"{path}:{i}", line) for i, line in enumerate(path.read_text("utf-8").splitlines(), 1)]
    found = [
        (sum(name in line for name in names), place)
        for place, line in ((place, re.sub(r"(^|\s)#.*", "", line)) for place, line in lines)
        if "${" in line
    ]
    count, place = max(found, key=lambda each: each[0], default=(0, ""))
    if _NO_ENVIRONMENT in words:
        place = next((place for place, line in lines if "oc.env" in line), str(conf))
        return f"{place}: found ${{oc.env:...}}; {_NO_ENVIRONMENT}; write the value itself"
    if "oc.decode" in words:
        fix = "give it text, or write the value itself"
    else:
        fix = "write the full key of another value, as in ${model.mode}, or the value itself"
    return f"{place if count else conf}: {words}; {fix}"


def _in_file(path: Path, parts: list[tuple[Path, str]]) -> str:
    """Explain the error in a file that Hydra named, or in a profile without the line that puts it at the root."""
    for profile, key in parts:
        if key == "profile":
            content = profile.read_text(encoding="utf-8")
            found = "a byte order mark" if content.startswith("\ufeff") else repr(content.partition("\n")[0])
            return f"{profile}:1: must begin with `# @package _global_`, found {found}"
    return next(filter(None, (yaml_types.file_problem(file, key) for file, key in parts if file == path)), "")
