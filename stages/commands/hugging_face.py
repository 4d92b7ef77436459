"""`make hugging-face`: TAO checkpoint -> a folder that transformers' Mask2FormerForUniversalSegmentation loads.

Writes config.json, model.safetensors and preprocessor_config.json. The same network, parameter by parameter; its class
no-object is last there. Cost: seconds. Deterministic.
"""

import argparse
from pathlib import Path
from typing import Any

from stages.foundation import files
from stages.weights import hugging_face_config, layouts, reading


def build(checkpoint: Path, label_map: Path, out: Path) -> None:
    """Write the network of checkpoint/model.pth and checkpoint/spec.yaml, its classes named by `label_map`, to `out`.

    Raises FileNotFoundError without a checkpoint, ValueError where it is none of a Mask2Former, or one that Hugging
    Face's can't compute.
    """
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    for path in (checkpoint / "model.pth", checkpoint / "spec.yaml", label_map):
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found; run `dvc repro train`, or `dvc pull` where it is shared")
    state = reading.read(checkpoint / "model.pth", reading.TAO).state
    names = [entry["name"] for entry in files.read_json(label_map)]
    head = f"{layouts.CLASSES}.bias"
    if head not in state:
        raise ValueError(f"{checkpoint / 'model.pth'}: {head} is missing; take a checkpoint that train wrote")
    if (rows := len(state[head])) != len(names) + 1:
        raise ValueError(f"{checkpoint}: {rows - 1} classes, but {label_map} has {len(names)}; take the map of its set")
    spec: Any = OmegaConf.to_container(OmegaConf.load(checkpoint / "spec.yaml"))
    try:
        contents = config(spec["model"], names), preprocessor(spec["dataset"], len(names))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint / 'spec.yaml'}: has no {error}; take the spec that train wrote") from error
    hugging_face_config.check_spec(str(checkpoint / "spec.yaml"), spec["model"])
    with files.atomic_write(out) as draft:
        draft.mkdir()
        save_file(layouts.to_hugging_face(state), draft / reading.SAFETENSORS, metadata={"format": "pt"})
        files.write_json(draft / reading.CONFIG, contents[0])
        files.write_json(draft / reading.PREPROCESSOR, contents[1])


def config(model: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """config.json of the `model` of TAO's spec."""
    swin, head, decoder = model["backbone"]["swin"], model["sem_seg_head"], model["mask_former"]
    stages = [f"stage{number}" for number in range(1, 5)]
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": {
            "model_type": "swin",
            **{key: swin[key] for key in ("embed_dim", "depths", "num_heads", "window_size", "drop_path_rate")},
            "out_features": stages,
        },
        "feature_size": head["convs_dim"],
        "mask_feature_size": head["mask_dim"],
        "hidden_dim": decoder["hidden_dim"],
        "num_attention_heads": decoder["nheads"],
        "dim_feedforward": decoder["dim_feedforward"],
        "encoder_layers": head["transformer_enc_layers"],
        "decoder_layers": decoder["dec_layers"],
        "num_queries": decoder["num_object_queries"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def preprocessor(dataset: dict[str, Any], num_labels: int) -> dict[str, Any]:
    """preprocessor_config.json: the size that TAO validates at, and its normalisation."""
    sizes = dataset["augmentation"]
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "size": {"shortest_edge": sizes["test_min_size"], "longest_edge": sizes["test_max_size"]},
        "size_divisor": 32,
        "image_mean": dataset["pixel_mean"],
        "image_std": dataset["pixel_std"],
        "num_labels": num_labels,
    }


def main() -> None:
    """Command line of `make hugging-face`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--label-map", type=Path, required=True, help="label_map.json that convert wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    try:
        build(args.checkpoint, args.label_map, args.out)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.out}: {reading.SAFETENSORS}, {reading.CONFIG}, {reading.PREPROCESSOR}")


if __name__ == "__main__":
    main()
