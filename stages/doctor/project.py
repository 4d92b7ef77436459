"""Checks of the workspace, by the libraries of its environment: TAO, data, lock and remote."""

import importlib.metadata
import importlib.util
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from stages import config
from stages.doctor.lines import OPTIONAL, Line, line
from stages.remotes import connection

TAO = "nvidia-tao-pytorch"
_PASSWORD = re.compile("//[^/@]*@")
SHOWN = 4
REMOTE_ANSWER_S = 12
"""Seconds after which a remote that does not answer is given up."""


def tao() -> list[Line]:
    """TAO's wheel in the locked version."""
    import tomllib  # not in Python 3.10

    packages = tomllib.loads(Path("uv.lock").read_text(encoding="utf-8"))["package"]
    wanted = next(package["version"] for package in packages if package["name"] == TAO)
    try:
        found = importlib.metadata.version(TAO)
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    return [line("TAO's wheel", wanted, found, found == wanted, "make env")]


def compiled_op() -> list[Line]:
    """TAO's compiled deformable attention. It needs CUDA's libraries; without it TAO uses PyTorch's own."""
    import torch

    name, required = "TAO's compiled op", "to train fast on a GPU; without it PyTorch's own is used"
    spec = importlib.util.find_spec("nvidia_tao_pytorch")
    folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else Path()
    libraries = sorted(folder.glob("cv/deformable_detr/model/ops/MultiScaleDeformableAttention*.so"))
    if not libraries:
        return [line(name, required, f"no library in {folder}", False, "make env", OPTIONAL)]
    try:
        torch.ops.load_library(str(libraries[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        return [
            line(name, required, f"does not load: {reason}", False, "a GPU host with the CUDA that it names", OPTIONAL)
        ]
    return [line(name, required, "loads", True, "", OPTIONAL)]


def tracked() -> list[Line]:
    """Data and artifacts as DVC has recorded them: one comparison of the workspace with dvc.lock and the .dvc files."""
    from dvc.repo import Repo

    data = config.load().data
    with Repo() as repo:
        status: dict[str, list[Any]] = repo.status()
        outs = {os.path.relpath(out.fs_path): out.stage.addressing for out in repo.index.outs}
    stale = [name for name in status if not name.endswith(".dvc")]
    found = f"stale: {_shown(stale)}" if stale else "every stage is up to date"
    lock = line("dvc.lock", "in step with code, params.yaml and artifacts", found, not stale, "make all", OPTIONAL)
    return [_data(data, status, outs), lock]


def _data(data: config.Data, status: dict[str, list[Any]], outs: dict[str, str]) -> Line:
    """Return the line of the sets. `outs`: path -> stage or .dvc file; `status`: what DVC found changed."""
    from stages.sets import formats

    name, root = "data", data.root
    required = f"{root}, a data set, as DVC has recorded it"
    owner = next((outs[str(path)] for path in (Path(root), *Path(root).parents) if str(path) in outs), "")
    generated = bool(owner) and not owner.endswith(".dvc")
    changed = [path for path, stage in outs.items() if stage.endswith(".dvc") and stage in status]
    sources = list(data.sources.values()) or [config.Source()]
    named = [Path(root) / source.root for source in sources if source.format is not config.Format.auto]
    places = [Path(root) / source.root for source in sources]
    strange = [str(place) for place in places if place not in named and not formats.lies_at(place)]
    if generated and not Path(root).exists():
        return line(name, required, f"{root} was not generated yet", False, "make all", OPTIONAL)
    if changed:
        fix = "dvc checkout, or make pull; make data SRC=PATH if you changed it yourself"
        return line(name, required, f"changed or missing: {_shown(changed)}", False, fix)
    if not Path(root).exists():
        return line(name, required, f"no {root}", False, "make pull, or make data SRC=/path/to/the/set")
    if strange:
        return line(name, required, f"no such set: {_shown(strange)}", False, f"make data SRC={root} says what it is")
    if not owner:
        found = f"{root}, which DVC does not track, so nobody can pull it"
        return line(name, required, found, False, f"make data SRC={root}", OPTIONAL)
    if generated and owner in status:
        return line(name, required, f"{root}, not as recorded", False, "make all", OPTIONAL)
    return line(name, required, f"{root}, unchanged", True, "")


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def remote() -> list[Line]:
    """Whether the default remote can be read and written, by an object of a few bytes that is removed again."""
    from dvc.repo import Repo

    with Repo() as repo:
        name = repo.config["core"].get("remote")
        options = repo.config["remote"].get(name, {}) if name else {}
        url = str(options.get("url", ""))
        inside = url and "://" not in url and Path(url).resolve().is_relative_to(Path.cwd())
        if not url or inside:
            found = f"{url} in this clone, which nobody else sees" if inside else "no shared remote yet"
            fix = "make remote URL=s3://..., ssh://... or a folder"
            return [
                line(f"remote {what}", "to share artifacts", found, False, fix, OPTIONAL) for what in ("read", "write")
            ]
        # A password in the URL is not for a table that people send around.
        where = f"{name}, {_PASSWORD.sub('//', url)}"
        fix = "as it says; make remote URL=... tests it"
        problem = _tried(lambda: connection.probe(options, name))
        writing = line("remote write", "to push", f"{where}{problem}", not problem, fix, OPTIONAL)
        # Who may write there may read too.
        problem = problem and _tried(lambda: _read(repo, name, url))
        return [line("remote read", "to pull", f"{where}{problem}", not problem, fix), writing]


def _tried(step: Callable[[], None]) -> str:
    """Return the first line of the error of a step, after a colon, or nothing. Gives up after REMOTE_ANSWER_S."""

    def give_up(*_: object) -> NoReturn:
        raise TimeoutError(f"no answer within {REMOTE_ANSWER_S} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(REMOTE_ANSWER_S)
    try:
        step()
    except Exception as error:  # DVC's own, of its settings, beside those of remotes
        said = (str(error).strip() or type(error).__name__).partition("\n")[0]
        return (
            f": {_PASSWORD.sub('//', said.partition(': ')[2] if isinstance(error, connection.RemoteError) else said)}"
        )
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    return ""


def _read(repo: Any, name: str, url: str) -> None:
    """List the remote's folder. Raises RemoteError where it is not there or can't be read."""
    with connection.talking(name, url):
        remote = repo.cloud.get_remote(name)
        remote.fs.ls(remote.path)
