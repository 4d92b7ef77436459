"""The experiment spec of TAO 7.3 for a training run, from our parameters.

Field names and defaults: nvidia_tao_pytorch.config.mask2former. Fields not written keep TAO's defaults.
"""

from pathlib import Path
from typing import Any

from stages import config

PIXEL_MEAN = [0.485, 0.456, 0.406]
"""ImageNet mean of RGB in [0, 1]; TAO Deploy hard-codes it."""
PIXEL_STD = [0.229, 0.224, 0.225]
"""ImageNet standard deviation of RGB in [0, 1]."""


def train_spec(coco: Path, num_classes: int, cfg: config.Config) -> dict[str, Any]:
    """The spec of a panoptic training run, ready to be written as YAML.

    coco: folder that the convert stage wrote. num_classes: length of the label map. The folder for TAO's results is not
    part of it.
    """
    model, train, backbone = cfg.model, cfg.train, cfg.model.backbone

    def dataset(split: str, batch_size: int) -> dict[str, Any]:
        return {
            "type": "coco_panoptic",
            "panoptic_json": str(coco / split / "panoptic.json"),
            "panoptic_dir": str(coco / split / "panoptic"),
            "img_dir": str(coco / split),
            "batch_size": batch_size,
            "num_workers": train.workers,
        }

    swin: dict[str, Any] = {
        # A custom size is built by our own hook; TAO still wants a name from its table.
        "type": "tiny" if backbone.type is config.SwinType.custom else backbone.type.value,
        "embed_dim": backbone.embed_dim,
        "depths": backbone.depths,
        "num_heads": backbone.num_heads,
        "window_size": backbone.window_size,
        "drop_path_rate": backbone.drop_path_rate,
    }
    return {
        "model": {
            "mode": "panoptic",
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
            "checkpoint_interval": train.epochs,
            "validation_interval": train.validation_interval,
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
