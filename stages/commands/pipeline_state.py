"""Asks DVC for the order of the stages, and which of them are out of date.

It compares the files in the workspace, so the data must be here. stages/review/staleness.py compares dvc.lock with code
and parameters alone, and needs no data. `repo` is that of stages/foundation/dvc_project.py.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import networkx as nx


def order(repo: Any, goal: str) -> list[str]:
    """Return the names of the stage `goal` and all stages that it depends on, each after those that it depends on."""
    stages = {stage.addressing: stage for stage in repo.index.graph if stage.addressing == goal}
    nodes = nx.dfs_postorder_nodes(repo.index.graph, stages[goal])
    return [stage.addressing for stage in nodes if stage.cmd]


def require_fresh(repo: Any, graph: Path, then: str) -> None:
    """Raise RuntimeError where the stage that writes the folder `graph`, `evaluate` or one before them is out of date.

    `then` says what to do after `make all`.
    """
    writers = [stage.addressing for stage in repo.index.graph for out in stage.outs if out.def_path == str(graph)]
    for stage, words in changes(repo, [*writers, "evaluate"], ancestors=True).items():
        raise RuntimeError(f"{stage} is out of date ({'; '.join(words[:2])}); run `make all`, then {then}")


def changes(repo: Any, names: Iterable[str] | None = None, ancestors: bool = False) -> dict[str, list[str]]:
    """Return what changed, in words, for each stage of `names` that is out of date; with `ancestors` for theirs too.

    None are all stages, and all data that DVC tracks.
    """
    found = repo.status(targets=None if names is None else list(names), with_deps=ancestors)
    return {name: [words for entry in entries for words in _words(entry)] for name, entries in found.items()}


def _words(entry: Any) -> list[str]:
    """`entry` is one of DVC: "changed command", or {"changed deps": {path: what, "params.yaml": {key: what}}}."""
    if isinstance(entry, str):
        return [entry]
    return [
        f"{key if isinstance(what, dict) else path} {what if isinstance(what, str) else what[key]}"
        for group in entry.values()
        for path, what in group.items()
        for key in (what if isinstance(what, dict) else [path])
    ]
