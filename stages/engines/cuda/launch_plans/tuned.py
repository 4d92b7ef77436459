"""Tiles that were measured on a GPU: the lines of a target's `tiles`, which `make tune` writes."""

import hashlib
import logging
from collections.abc import Sequence

from stages import config
from stages.engines.cuda.launch_plans import planner
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice
from stages.inference.steps import KernelCall

log = logging.getLogger(__name__)


def call_name(call: KernelCall) -> str:
    """The operator, the shapes of its inputs, and a digest of all that plans depend on."""
    specs = [(spec.shape, spec.dtype) for spec in (*call.input_specs, *call.output_specs)]
    content = repr((call.operator, sorted(call.attributes.items()), specs))
    shapes = ",".join("x".join(map(str, spec.shape)) for spec in call.input_specs)
    return f"{call.operator} {shapes} {hashlib.sha256(content.encode()).hexdigest()[:8]}"


def line(call: KernelCall, measured_on: Machine, choice: Choice) -> str:
    """The line of a call's measured choice."""
    return f"{measured_on.compute_capability}/{measured_on.multiprocessors} {call_name(call)} {words(choice)}"


def words(choice: Choice) -> str:
    """The constants of a choice, as a line has them."""
    return " ".join(f"{name}={value}" for name, value in choice.items())


class Tuned:
    """Measured choices by compute capability and call."""

    def __init__(self, lines: Sequence[str]) -> None:
        """`lines` are those of a checked target."""
        self._choices: dict[tuple[str, str], tuple[Machine, Choice]] = {}
        self._used = 0
        for each in lines:
            found = config.TILE.fullmatch(each)
            assert found is not None, "config.Target.check refuses other lines"
            measured_on = Machine(found["capability"], int(found["multiprocessors"]))
            pairs = (constant.split("=") for constant in found["choice"].split())
            choice = {name: int(value) for name, value in pairs}
            self._choices[found["capability"], found["call"]] = measured_on, choice

    def choice(self, call: KernelCall, compute_capability: str) -> Choice | None:
        """The measured choice of a call, or None. Raises ValueError for one that the call does not have."""
        found = self._choices.get((compute_capability, call_name(call)))
        if found is None:
            return None
        self._used += 1
        measured_on, choice = found
        if choice not in planner.choices(call, measured_on):
            raise ValueError(
                f"tiles: {line(call, measured_on, choice)!r} is none of the tiles that {call.operator} has now; "
                "run `make tune` again on that GPU, or remove the file from conf/tiles"
            )
        return choice

    def warn_if_unused(self) -> None:
        """Warn where there are measured tiles, and none of them is for the graph's sizes."""
        if self._choices and not self._used:
            log.warning(
                "none of the %d measured tiles in conf/tiles is for this graph: its sizes are others; run `make tune` "
                "again on that GPU",
                len(self._choices),
            )
