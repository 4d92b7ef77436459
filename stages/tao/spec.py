"""Writes the experiment spec of TAO 7.3 from our parameters, and checks it against TAO's own schema.

Field names and defaults: nvidia_tao_pytorch.config.mask2former. Fields that are not written keep TAO's defaults.
"""

from dataclasses import replace
from pathlib import Path

from stages import config
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD


def train_spec(coco: Path, num_classes: int, cfg: config.Config) -> dict[str, object]:
    """Return the spec of a training run, ready to be written as YAML.

    coco: folder that the convert stage wrote. num_classes: length of the label map. Paths of results, of the first
    weights and of a checkpoint to resume from are not part of it; stages.tao.runners.overrides returns them.
    """
    model, train, backbone = cfg.model, cfg.train, cfg.model.backbone

    def dataset(split: str, batch_size: int) -> dict[str, object]:
        return {**annotations(coco / split, cfg), "batch_size": batch_size, "num_workers": train.workers}

    swin: dict[str, object] = {
        # A custom size is built by our own hook; TAO still wants a name from its table.
        "type": "tiny" if backbone.type is config.SwinType.custom else backbone.type.value,
        "embed_dim": backbone.embed_dim,
        "depths": backbone.depths,
        "num_heads": backbone.num_heads,
        "window_size": backbone.window_size,
        "drop_path_rate": backbone.drop_path_rate,
    }
    keep_best = {}
    if train.keep is config.Keep.best:
        name, mode = monitor(cfg)
        keep_best = {"checkpointer": {"enable_topk": True, "save_top_k": 1, "monitor": name, "mode": mode}}
    spec: dict[str, object] = {
        "model": {
            "mode": model.mode.value,
            "backbone": {
                "type": "swin",
                "swin": swin,
                "pretrained_weights": backbone.pretrained_weights or None,
            },
            "sem_seg_head": {
                "num_classes": num_classes,
                "convs_dim": model.hidden_dim,
                "mask_dim": model.hidden_dim,
                "transformer_enc_layers": model.enc_layers,
            },
            "mask_former": {
                "num_object_queries": model.num_object_queries,
                "hidden_dim": model.hidden_dim,
                "nheads": model.nheads,
                "dim_feedforward": model.dim_feedforward,
                "dec_layers": model.dec_layers,
            },
        },
        "dataset": {
            "train": dataset("train", train.batch_size),
            # TAO can't batch validation images of different sizes.
            "val": dataset("val", 1),
            "label_map": str(coco / "label_map.json"),
            # With false every class would count as a thing.
            "contiguous_id": True,
            "pixel_mean": PIXEL_MEAN,
            "pixel_std": PIXEL_STD,
            "augmentation": {
                "train_min_size": train.min_sizes_px,
                "train_max_size": train.max_size_px,
                "train_crop_size": [train.crop_height_px, train.crop_width_px],
                # For TAO's own validation while it trains; `evaluate` uses the deployed size.
                "test_min_size": min(train.crop_height_px, train.crop_width_px),
                "test_max_size": max(train.crop_height_px, train.crop_width_px),
            },
        },
        "train": {
            "num_epochs": train.epochs,
            "num_nodes": train.nodes,
            "num_gpus": len(train.gpus),
            "gpu_ids": visible_gpus(train),
            "distributed_strategy": train.strategy.value,
            "activation_checkpoint": train.activation_checkpoint,
            "checkpoint_interval": train.checkpoint_interval,
            "validation_interval": train.validation_interval,
            **keep_best,
            "seed": train.seed,
            "precision": train.precision.value,
            "clip_grad_norm": train.clip_grad_norm,
            "optim": {
                "type": "AdamW",
                "lr": train.lr,
                "backbone_multiplier": train.backbone_multiplier,
                "weight_decay": train.weight_decay,
                "lr_scheduler": train.lr_scheduler.value,
                "milestones": train.milestones,
                "gamma": 0.1,
            },
        },
    }
    return merged(spec, train.tao_spec)


def annotations(folder: Path, cfg: config.Config) -> dict[str, str]:
    """Return the fields of dataset.SPLIT that name the files of a split, which convert wrote to `folder`."""
    images = str(folder / "images" if cfg.data.bare_file_names else folder)
    if cfg.model.mode is config.Mode.instance:
        return {"type": "coco", "instance_json": str(folder / "instances.json"), "img_dir": images}
    if cfg.model.mode is config.Mode.semantic:
        return {"type": "ade", "annot_file": str(folder / "semantic.jsonl"), "root_dir": str(folder)}
    return {
        "type": "coco_panoptic",
        "panoptic_json": str(folder / "panoptic.json"),
        "panoptic_dir": str(folder / "panoptic"),
        "img_dir": images,
    }


def monitor(cfg: config.Config) -> tuple[str, str]:
    """Return TAO's name of the metric train.monitor, and `min` if lower is better, else `max`."""
    if cfg.train.monitor is config.Monitor.loss:
        return "val_loss", "min"
    return ("val_mAP" if cfg.model.mode is config.Mode.instance else "mIoU"), "max"


def visible_gpus(train: config.Train) -> list[int]:
    """Return GPU numbers as TAO sees them. Docker shows only the chosen GPUs, numbered from 0."""
    return list(range(len(train.gpus))) if train.runner is config.Runner.docker else train.gpus


def merged(spec: dict[str, object], more: dict[str, object]) -> dict[str, object]:
    """Return `spec` with the fields of `more` added or replaced, at any depth."""
    result = dict(spec)
    for key, value in more.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


OURS = ("results_dir", "train.resume_training_checkpoint_path", "train.pretrained_model_path")
"""Fields that the train stage sets when it starts TAO. Users can't set them."""


def check(cfg: config.Config) -> None:
    """Raise ValueError with the full key unless TAO's schema accepts the spec and train.tao_spec only adds fields."""
    import importlib

    from omegaconf import ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    more = cfg.train.tao_spec
    plain = train_spec(Path("data/coco"), 1, replace(cfg, train=replace(cfg.train, tao_spec={})))
    for key in sorted((_leaves(plain) | set(OURS)) & _leaves(more)):
        rule = "left out, because a parameter of this project sets it (docs/parameters.md)"
        config.require(False, f"train.tao_spec.{key}", rule, OmegaConf.select(OmegaConf.create(more), key))
    # Imported here because it takes 0.6 s. It does not import PyTorch.
    schema = importlib.import_module("nvidia_tao_pytorch.config.mask2former.default_config")
    try:
        taken = OmegaConf.merge(OmegaConf.structured(schema.ExperimentConfig), merged(plain, more))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        key = error.full_key or ""
        where = f"train.tao_spec.{key}" if key in _leaves(more) or not _holds(plain, key) else key
        raise ValueError(f"{where}: TAO's schema does not accept it: {reason}; correct it in conf/") from error
    for key in sorted(_leaves(more)):
        # OmegaConf converts numbers to text, although YAML may have changed their digits, and both to booleans.
        found, made = OmegaConf.select(OmegaConf.create(more), key), OmegaConf.select(taken, key)
        pairs = zip(found, made, strict=True) if isinstance(made, ListConfig) else [(found, made)]
        for value, result in pairs:
            for kind in (str, bool):
                as_written = type(result) is not kind or type(value) is kind
                config.require(as_written, f"train.tao_spec.{key}", config.RULES[kind], value)


def _leaves(spec: dict[str, object], prefix: str = "") -> set[str]:
    """Return the full keys of all fields, such as train.optim.lr."""
    found: set[str] = set()
    for key, value in spec.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return found


def _holds(spec: dict[str, object], key: str) -> bool:
    """Return whether a spec has the field `key` or a field in it."""
    return any(leaf == key or leaf.startswith(f"{key}.") for leaf in _leaves(spec))
