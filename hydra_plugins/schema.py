"""Registers the dataclasses of stages/config with Hydra. DVC loads this folder before it composes conf/.

By itself OmegaConf makes text of whatever a field of text is given, after YAML or Hydra has made a number of it: 10.10
became '10.1', 0123 '83' and `no` 'False'. Likewise it makes a truth value of any number. Its flag `convert` turns that
off, for DVC's own composition (`dvc exp run`) as for ours. Numbers are still taken from text, which loses nothing.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import BooleanNode, ListConfig, StringNode

from stages.config import Config

EXACT = {"is_optional": False, "flags": {"convert": False}}


@cache
def exact(kind: type) -> type:
    """A dataclass like `kind`, with fields of text and of truth values, at any depth, that convert nothing."""
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


ConfigStore.instance().store(name="schema", node=exact(Config))
