"""Extends TAO's training: CPU support, curves, time left, early stopping, exact resumption, fewer kernel launches.

The wheel itself is not changed. stages.training.program imports this module after it has made TAO importable.
"""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import pytorch_lightning as pl
import torch
from dvclive.lightning import DVCLiveLogger
from pytorch_lightning.callbacks import Callback, EarlyStopping, OnExceptionCheckpoint
from torch.utils.data import DataLoader

from stages import config
from stages.tao import spec
from stages.training import resume

if TYPE_CHECKING:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.utils.data.dataloader import _BaseDataLoaderIter

log = logging.getLogger(__name__)


class SeededLoader(DataLoader[object]):
    """Seeds the random numbers of each epoch by the epoch's number.

    A checkpoint does not hold the state of random number generators. With seeds by epoch, a resumed training draws the
    same order, crops and dropped paths as one that was never interrupted. A Lightning hook would come too late, because
    the first epoch's iteration begins before all hooks.
    """

    seed = staticmethod(lambda: 0)
    """Returns the seed of the epoch that begins."""

    def __iter__(self) -> "_BaseDataLoaderIter":
        pl.seed_everything(SeededLoader.seed(), workers=True, verbose=False)
        return super().__iter__()


class _DropOldCheckpoints(Callback):
    """Deletes all checkpoints but the two newest. TAO keeps all of them, each three times the network's size."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for path in resume.checkpoints(Path(trainer.default_root_dir))[2:]:
                path.unlink()


class _LogEpochs(Callback):
    """Logs a line per epoch. Used if there is no terminal for a progress bar."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.monotonic()
        self._first = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
            pace = (time.monotonic() - self._start) / (done - self._first)
            loss = float(trainer.callback_metrics["train_loss_epoch"])
            log.info("epoch %d of %d: train_loss %.3f, %.0f s left", done, total, loss, pace * (total - done))


class _ClipShards(Callback):
    """Clips gradients by their norm over all shards. Lightning refuses to clip with fsdp.

    TAO's optimizer then clips each process's shards by their own norm, which is below the limit already.
    """

    def __init__(self, norm: float) -> None:
        self._norm = norm

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        cast("FullyShardedDataParallel", trainer.strategy.model).clip_grad_norm_(self._norm)


class _Schedule(TypedDict):
    scheduler: torch.optim.lr_scheduler.LRScheduler


class Optimization(TypedDict):
    """Result of TAO's `configure_optimizers`."""

    optimizer: torch.optim.Optimizer
    lr_scheduler: _Schedule


type Configure = Callable[[pl.LightningModule], Optimization]


def merge_param_groups(configure: Configure) -> Configure:
    """Wrap TAO's `configure_optimizers`: merge parameter groups of equal learning rate and weight decay into one.

    TAO makes a group per parameter, hundreds in all, and the optimizer launches its kernels once per group. Every
    parameter keeps its rates. TAO logs the first group's rate as `lr_backbone` and the last group's as `lr`. That
    stays true: if the rates differ, the first group is still of the backbone and the last is not.
    """

    def configure_optimizers(module: pl.LightningModule) -> Optimization:
        found = configure(module)
        groups, scheduler = found["optimizer"].param_groups, found["lr_scheduler"]["scheduler"]
        # The scheduler was made for TAO's groups and keeps a rate for each in base_lrs and _last_lr.
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


def without_exception_checkpoints(
    configure: Callable[[pl.LightningModule], list[Callback]],
) -> Callable[[pl.LightningModule], list[Callback]]:
    """Wrap TAO's `configure_callbacks`: leave out the callback that saves a checkpoint when an exception ends TAO.

    A signal after the last step of an epoch ends TAO while Lightning counts the epoch. The callback then replaces the
    whole checkpoint of that epoch by one with other counts. Checkpoints of the middle of an epoch are of no use here.
    """

    def configure_callbacks(module: pl.LightningModule) -> list[Callback]:
        return [callback for callback in configure(module) if not isinstance(callback, OnExceptionCheckpoint)]

    return configure_callbacks


def trainer(cfg: config.Config, *, resumed: bool) -> Callable[..., pl.Trainer]:
    """Return the function that TAO's training script calls in place of Lightning's Trainer."""

    def make(**kwargs: Any) -> pl.Trainer:
        # TAO reads len(devices) before this call, so the number of devices can only be changed here.
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
        # current_epoch is one too low when the first epoch after a resumption begins.
        epochs: Any = result.fit_loop.epoch_progress  # Its type lacks `processed`.
        SeededLoader.seed = staticmethod(lambda: cfg.train.seed + epochs.current.processed)
        return result

    return make
