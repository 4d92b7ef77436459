"""What the wheel's training has beside TAO's own: CPUs, curves, the time left, early stop, exact resumption, pace.

Imported by stages.training.program once TAO is importable.
"""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from dvclive.lightning import DVCLiveLogger
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader

from stages import config
from stages.tao import spec
from stages.training import resume

log = logging.getLogger(__name__)


class SeededLoader(DataLoader[Any]):
    """Seeds each pass by the epoch's number, as a checkpoint has no state of random numbers.

    Without it order, crops and dropped paths would be others after a resumption.
    A hook of Lightning would come too late: the first epoch's pass begins before all of them.
    """

    seed = staticmethod(lambda: 0)
    """The pass's seed."""

    def __iter__(self) -> Any:
        pl.seed_everything(SeededLoader.seed(), workers=True, verbose=False)
        return super().__iter__()


class _DropOldCheckpoints(Callback):
    """Leaves the two newest checkpoints: TAO keeps them all, each three times the network's size."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            for path in resume.checkpoints(Path(trainer.default_root_dir))[2:]:
                path.unlink()


class _LogEpochs(Callback):
    """Tells the progress where nobody watches a progress bar."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.monotonic()
        self._first = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            done, total = trainer.current_epoch + 1, trainer.max_epochs
            pace = (time.monotonic() - self._start) / (done - self._first)
            loss = float(trainer.callback_metrics["train_loss_epoch"])
            log.info("epoch %d of %d: train_loss %.3f, %.0f s left", done, total, loss, pace * (total - done))


class _ClipShards(Callback):
    """Clips gradients by the norm of all shards, which Lightning refuses to do for fsdp.

    TAO's optimizer clips each process's shards once more, by their own norm, which is below the limit then.
    """

    def __init__(self, norm: float) -> None:
        self._norm = norm

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        trainer.strategy.model.clip_grad_norm_(self._norm)


def few_groups(configure: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """TAO's `configure_optimizers`, with a parameter group for each pair of learning rate and weight decay.

    TAO makes one for each parameter, hundreds, and an optimizer launches its kernels for each group anew. Every
    parameter keeps its rates. Where the backbone's rate is another, the first group is of the backbone and the last is
    not: TAO's curves `lr_backbone` and `lr` are of those two.
    """

    def configure_optimizers(module: Any) -> dict[str, Any]:
        found = configure(module)
        groups, scheduler = found["optimizer"].param_groups, found["lr_scheduler"]["scheduler"]
        # `initial_lr`, `base_lrs` and `_last_lr` are the scheduler's, which was made for TAO's groups.
        kinds: dict[tuple[float, float], list[int]] = {}
        for index, group in enumerate(groups):
            kinds.setdefault((group["initial_lr"], group["weight_decay"]), []).append(index)
        for first, *others in kinds.values():
            for index in others:
                groups[first]["params"] += groups[index]["params"]
        kept = [first for first, *_ in kinds.values()]
        groups[:] = [groups[index] for index in kept]
        scheduler.base_lrs = [scheduler.base_lrs[index] for index in kept]
        scheduler._last_lr = [scheduler._last_lr[index] for index in kept]
        return found

    return configure_optimizers


def trainer(cfg: config.Config, *, resumed: bool) -> Callable[..., pl.Trainer]:
    """What stands for Lightning's Trainer in TAO's training script."""

    def make(**kwargs: Any) -> pl.Trainer:
        # TAO's code above this call reads len(devices), so only the Trainer itself learns of the change.
        if not torch.cuda.is_available():
            kwargs.update(accelerator="cpu", devices=len(cfg.train.gpus))
        more: list[Callback] = [_DropOldCheckpoints()]
        if kwargs["strategy"] == "fsdp":
            more.append(_ClipShards(kwargs.pop("gradient_clip_val")))
        if cfg.train.patience:
            name, mode = spec.monitor(cfg)
            more.append(EarlyStopping(name, mode=mode, patience=cfg.train.patience, verbose=True))
        if not sys.stderr.isatty():
            more.append(_LogEpochs())
            kwargs["enable_progress_bar"] = False
        folder = str(Path(kwargs["default_root_dir"]) / "dvclive")
        curves = DVCLiveLogger(dir=folder, resume=resumed, save_dvc_exp=False, dvcyaml=None, report=None)
        kwargs["logger"] = [*kwargs["logger"], curves]
        result = pl.Trainer(callbacks=more, **kwargs)
        # `current_epoch` is one behind where the first pass after a resumption begins.
        epochs: Any = result.fit_loop.epoch_progress
        SeededLoader.seed = staticmethod(lambda: cfg.train.seed + epochs.current.processed)
        return result

    return make
