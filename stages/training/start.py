"""Starts TAO's training by train.runner, and finds out whether early stopping ended it."""

import json
import shlex
import traceback
from pathlib import Path

from stages import config
from stages.foundation import files, parallel, signals
from stages.tao import runners, spec
from stages.training import program, resume


def check_batch(coco: Path, train: config.Train) -> None:
    """Raise ValueError for a batch larger than the training split, RuntimeError for too little shared memory."""
    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    batch = train.batch_size * len(train.gpus) * train.nodes
    if batch > pictures:
        raise ValueError(
            f"train.batch_size {train.batch_size} on {len(train.gpus) * train.nodes} GPUs is {batch} pictures a step, "
            f"more than the {pictures} training pictures; set a smaller train.batch_size"
        )
    if train.runner is config.Runner.wheel and train.workers:
        # A batch of pictures for each loader process, float32 [B, 3, H, W]; the masks come on top of it. Containers are
        # not checked: they have a /dev/shm of their own.
        workers = train.workers * len(train.gpus)
        batch_bytes = train.batch_size * 3 * train.crop_height_px * train.crop_width_px * 4
        parallel.check_shared_memory("train.workers", workers, 0, workers * batch_bytes)


def run_files(coco: Path, work: Path, cfg: config.Config, checkpoint: Path | None) -> runners.Run:
    """Return the files of a training in the folder `work` that resumes from `checkpoint`, or begins if that is None.

    The names are the same for all trainings, since TAO writes them into its checkpoint.
    """
    return runners.Run(work / "spec.yaml", work, coco, work / "start.pkl" if cfg.model.weights else None, checkpoint)


def start(run: runners.Run, cfg: config.Config) -> None:
    """Run TAO and wait until it ends.

    Raises RuntimeError if TAO ends with an error or a runner is not installed, and TrainingFailedError with the exit
    status of another process. TAO has printed its own messages then.
    """
    if cfg.train.runner is config.Runner.wheel and not runners.in_processes(cfg.train):
        try:
            program.train(run, cfg)
        except SystemExit as error:
            signals.stop_if_received()
            # TAO's entry point runs under Hydra, which prints an exception and exits while it handles it.
            raise RuntimeError(f"TAO stopped with {_in_words(error.__context__)}; its messages are above") from error
        except Exception as error:  # With HYDRA_FULL_ERROR=1, for debugging, any exception of TAO arrives here.
            traceback.print_exc()
            raise RuntimeError(f"TAO stopped with {_in_words(error)}; its messages are above") from error
        # TAO reports an interruption as a success.
        signals.stop_if_received()
        return
    command, env = _command(run, cfg)
    if cfg.train.runner is config.Runner.docker:
        runners.require_docker(cfg.train.container.image)
    elif cfg.train.runner is config.Runner.launcher:
        runners.require_launcher()
        mounts = runners.mounts_file(cfg.train, Path.cwd(), runners.outside(run.coco, Path.cwd()))
        files.write_json(Path(env["LAUNCHER_MOUNTS"]), mounts)
    runners.call(command, **env)


def _in_words(error: BaseException | None) -> str:
    """Return the class of an exception and the first line of its message."""
    if error is None:
        return "an error"
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def describe(coco: Path, work: Path, cfg: config.Config) -> str:
    """Return the shell command of a training from its beginning. For TAO's launcher a comment shows its mounts file."""
    command, env = _command(run_files(coco, work, cfg, None), cfg)
    lines = [" ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(command)])]
    if cfg.train.runner is config.Runner.launcher:
        mounts = runners.mounts_file(cfg.train, Path.cwd(), runners.outside(coco, Path.cwd()))
        lines.insert(0, f"# {env['LAUNCHER_MOUNTS']}: {json.dumps(mounts)}")
    return "\n".join(lines)


def _command(run: runners.Run, cfg: config.Config) -> tuple[list[str], dict[str, str]]:
    """Return the command of train.runner and its environment variables."""
    if cfg.train.runner is config.Runner.docker:
        return runners.docker(run, cfg.train, Path.cwd(), runners.outside(run.coco, Path.cwd())), {}
    if cfg.train.runner is config.Runner.launcher:
        return runners.launcher(run, cfg), {"LAUNCHER_MOUNTS": str((run.results / "mounts.json").resolve())}
    return runners.wheel(run, cfg.train), {}


def finished(rows: list[dict[str, float]], cfg: config.Config) -> bool:
    """Return whether a training with these rows of the history has come to its end."""
    return bool(rows) and (rows[-1]["epoch"] == cfg.train.epochs or ended_early(rows, cfg))


def ended_early(rows: list[dict[str, float]], cfg: config.Config) -> bool:
    """Return whether train.patience ended a training with these rows of the history.

    TAO's exit status is 0 after an interruption too. Only the history shows which of the two it was.
    """
    name, mode = spec.monitor(cfg)
    values = [row[resume.COLUMNS[name]] for row in rows if resume.COLUMNS[name] in row]
    if not values or not cfg.train.patience:
        return False
    best = values.index(min(values) if mode == "min" else max(values))
    return len(values) - 1 - best >= cfg.train.patience
