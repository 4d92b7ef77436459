"""Registers the dataclasses of stages/config with Hydra. DVC loads this folder before it composes conf/.

OmegaConf converts any value of a text field to text, after YAML or Hydra has read a number: 10.10 became '10.1', 0123
became '83', and `no` became 'False'. In the same way it converts any number to true or false. Its flag `convert` turns
this off, for DVC's own composition (`dvc exp run`) and for `make params`. Text is still converted to numbers, which
loses nothing.

DVC's composition knows of conf/ and of the options `-S` alone. Here it starts from the profile and the overrides that
params.yaml records, records what it has composed, and makes the checks of `make params`. Hydra has no plugin for this,
so the one method that composes is wrapped.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache, partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_origin, get_type_hints

from dvc.exceptions import InvalidArgumentError
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import BooleanNode, DictConfig, ListConfig, OmegaConf, StringNode, flag_override

from stages.commands import params
from stages.config import Config, choice, composition

EXACT = {"is_optional": False, "flags": {"convert": False}}


@cache
def exact(kind: type) -> type:
    """Return a dataclass like `kind` whose text and boolean fields, at any depth, accept no other type."""
    hints = get_type_hints(kind)
    made = []
    for known in fields(kind):
        hint, default = hints[known.name], _default(known)
        if is_dataclass(hint):
            hint = default = exact(hint)
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            hint = dict[str, exact(get_args(hint)[1])]
        elif hint is str:
            default = partial(StringNode, known.default, **EXACT)
        elif hint is bool:
            default = partial(BooleanNode, known.default, **EXACT)
        elif hint == list[str]:
            default = partial(ListConfig, default(), element_type=str, ref_type=hint, **EXACT)
        made.append((known.name, hint, field(default_factory=default)))
    return make_dataclass(kind.__name__, made)


def _default(known: "Field[Any]") -> Callable[[], Any]:
    return (lambda: known.default) if known.default_factory is MISSING else known.default_factory


class RefusedError(InvalidArgumentError, ConfigCompositionException):
    """A composition that DVC shows as one line, with the message of `make params`."""


def _folder(loader: ConfigLoaderImpl) -> Path | None:
    """The folder conf/ that a loader composes; None if it is that of another program, such as TAO."""
    for source in loader.config_search_path.get_path():
        folder = Path((source.path or "").removeprefix("file://"))
        if source.provider == "main" and (folder.parent / "hydra_plugins" / Path(__file__).name).is_file():
            return folder
    return None


def _with_choice(load: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Wrap the method of Hydra that composes, so that it starts from the recorded choice and records the new one."""

    @wraps(load)
    def load_configuration(self: ConfigLoaderImpl, overrides: list[str], **more: Any) -> DictConfig:
        folder = _folder(self)
        if folder is None:
            return load(self, overrides=overrides, **more)
        if not choice.starts_from_record():
            chosen = choice.Choice().extended(overrides)
            return _recording(load(self, overrides=chosen.for_hydra(), **more), chosen)
        conf, every = Path(os.path.relpath(folder)), overrides
        try:
            composition.prepare(conf)
            chosen = choice.recorded(conf.parent / choice.FILE).extended(overrides)
            every = chosen.for_hydra()
            composed = _recording(load(self, overrides=every, **more), chosen)
        except composition.ERRORS as error:
            raise RefusedError(composition.problem(error, conf, every)) from None
        try:
            _check(composed, conf, every)
        except ValueError as error:
            raise RefusedError(str(error)) from None
        print(f"{choice.Choice(composed.profile, chosen.overrides)} (recorded in {choice.FILE})", file=sys.stderr)
        return composed

    return load_configuration


def _check(composed: DictConfig, conf: Path, overrides: list[str]) -> None:
    """Check a composition as `make params` does, as the file that it becomes. Raises ValueError."""
    keys = [str(key) for key in composed if key != "hydra"]
    content = OmegaConf.to_yaml(OmegaConf.masked_copy(composed, keys), resolve=True)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / choice.FILE
        draft.write_text(content, encoding="utf-8")
        params.check(draft, conf, overrides)


def _recording(composed: DictConfig, chosen: choice.Choice) -> DictConfig:
    """Write the choice into a composition: the profile by the name of its file, and the overrides as written."""
    # With escapes, or ${...} in an override would be replaced by its value of today.
    overrides = [re.sub(r"(\\*)\$\{", r"\1\1\\${", each) for each in chosen.overrides]
    with flag_override(composed, ["struct", "readonly", "convert"], [False, False, True]):
        composed.profile = composed.hydra.runtime.choices.get("profile") or composed.profile
        composed.overrides = ListConfig(overrides, element_type=str, ref_type=list[str], flags={"convert": True})
    return composed


ConfigLoaderImpl.load_configuration = _with_choice(ConfigLoaderImpl.load_configuration)
ConfigStore.instance().store(name="schema", node=exact(Config))
