"""Runs TAO's own training script in this process, with the additions of callbacks.py.

torchrun starts this module as the program of each of its processes.
"""

import argparse
import contextlib
import importlib
import logging
import os
import sys
from pathlib import Path

from stages import config
from stages.foundation import command_line, processes
from stages.tao import runners, wheel


def train(run: runners.Run, cfg: config.Config) -> None:
    """Train with TAO's entry point and the spec file of `run`, in this process, which may be one of several.

    TAO's exceptions pass through.
    """
    import torch

    from stages.training import callbacks, sampling

    wheel.prepare()
    # TAO asks for deterministic algorithms. PyTorch then also fills every new tensor, 2,500 times a step, so that reads
    # before writes would give the same values. No operator of the network has such reads: results are the same.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ["TAO_VISIBLE_DEVICES"] = ",".join(map(str, cfg.train.gpus))
    entry: wheel.TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.scripts.train")
    data: wheel.TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.dataloader.pl_data_module")
    data.DataLoader = sampling.loader(callbacks.SeededLoader, run.coco / "train", cfg)
    base = entry.Mask2formerPlModule
    own = {
        "configure_optimizers": callbacks.merge_param_groups(base.configure_optimizers),
        "configure_callbacks": callbacks.without_exception_checkpoints(base.configure_callbacks),
    }
    entry.Mask2formerPlModule = type(base.__name__, (base,), own)
    entry.Trainer = callbacks.trainer(cfg, resumed=run.resume is not None)
    argv = sys.argv
    losses: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if cfg.train.partial_labels:
        from stages.training import partial_labels

        losses = partial_labels.installed(run.coco)
    folder = ["--config-path", str(run.spec.parent.resolve()), "--config-name", run.spec.name]
    sys.argv = ["train", *folder, *runners.overrides(run)]
    try:
        with losses:
            entry.main()
    finally:
        sys.argv = argv


def main() -> None:
    """Command line of a process that torchrun starts."""
    parser = argparse.ArgumentParser(description="Train with TAO's wheel, as one of torchrun's processes.")
    for name, about in (
        ("spec", "spec.yaml"),
        ("results", "folder for what TAO writes"),
        ("coco", "folder that convert wrote"),
        ("start", "pickle of weights to start from"),
        ("resume", "checkpoint to resume from"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=name in ("spec", "results", "coco"), help=about)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(runners.Run(**vars(parser.parse_args())), config.load())


if __name__ == "__main__":
    processes.end_with(os.getppid())
    command_line.run(main)
