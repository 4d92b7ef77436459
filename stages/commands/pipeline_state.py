"""What DVC knows of the pipeline: the order of its stages, and which of them are out of date."""

import logging
from collections.abc import Iterable
from typing import Any

import networkx as nx

DvcRepo = Any  # DVC has no types.


def open_repo() -> DvcRepo:
    """Open the DVC project of the current folder; DVC's own notes are kept from the terminal.

    Raises RuntimeError where DVC can't read the project, such as for an error in dvc.yaml.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        repo = Repo()
        _ = repo.index.graph
    except DvcException as error:
        raise RuntimeError(f"DVC can't read the pipeline: {error}") from error
    return repo


def order(repo: DvcRepo, goal: str) -> list[str]:
    """Return the names of the stage `goal` and all stages that it depends on, each after those that it depends on."""
    stages = {stage.addressing: stage for stage in repo.index.graph if stage.addressing == goal}
    nodes = nx.dfs_postorder_nodes(repo.index.graph, stages[goal])
    return [stage.addressing for stage in nodes if stage.cmd]


def changes(repo: DvcRepo, names: Iterable[str], ancestors: bool = False) -> dict[str, list[str]]:
    """Return what changed, in words, for each stage of `names` that is out of date; with `ancestors` for theirs too."""
    found = repo.status(targets=list(names), with_deps=ancestors)
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
