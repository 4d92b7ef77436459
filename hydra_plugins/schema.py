"""Registers the dataclasses of stages/config with Hydra. DVC loads this folder before it composes conf/.

OmegaConf converts any value of a text field to text, after YAML or Hydra has read a number: 10.10 became '10.1', 0123
became '83', and `no` became 'False'. In the same way it converts any number to true or false. Its flag `convert` turns
this off, for DVC's own composition (`dvc exp run`) and for `make params`. Text is still converted to numbers, which
loses nothing.
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


ConfigStore.instance().store(name="schema", node=exact(Config))
