"""`make hugging-face`: TAO checkpoint -> a folder that transformers' Mask2FormerForUniversalSegmentation loads.

Writes config.json, model.safetensors and preprocessor_config.json. The network is the same, parameter by parameter; the
class no-object is the last one in transformers. Cost: seconds. Deterministic.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.foundation import command_line, files, text
from stages.foundation.coco_types import read_label_map
from stages.weights import compatibility, formats, hugging_face_folder, reader, state_dict


def build(checkpoint: Path, label_map: Path, out: Path) -> None:
    """Write the network of checkpoint/model.pth and checkpoint/spec.yaml to the folder `out`.

    label_map: the label_map.json of the checkpoint's set, which names the classes. Raises FileNotFoundError if a file
    is missing, ValueError if the checkpoint is not of a Mask2Former, transformers can't compute its network, or `out`
    has files that no earlier run wrote.
    """
    from safetensors.torch import save_file

    spec_path = checkpoint / "spec.yaml"
    for path in (checkpoint / "model.pth", spec_path, label_map):
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found; run `dvc repro train`, or `dvc pull` if it is shared")
    state = reader.read(checkpoint / "model.pth", formats.TAO).state
    names = [category["name"] for category in read_label_map(label_map)]
    head = f"{state_dict.CLASS_HEAD}.bias"
    if head not in state:
        raise ValueError(f"{checkpoint / 'model.pth'}: {head} is missing; use a checkpoint that train wrote")
    if (rows := len(state[head])) != len(names) + 1:
        raise ValueError(
            f"{checkpoint}: found {rows - 1} classes, expected the {len(names)} of {label_map}; use the label map of "
            "the checkpoint's set"
        )
    spec: files.Json = text.read_yaml(spec_path)
    try:
        network, preprocessor = network_config(spec["model"], names), preprocessor_config(spec["dataset"], len(names))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{spec_path}: has no {error}; use the spec that train wrote") from error
    compatibility.check_spec(str(spec_path), spec["model"])
    with files.atomic_write(out, recorded=True) as draft:
        draft.mkdir()
        tensors = state_dict.to_hugging_face(state)
        save_file(tensors, draft / hugging_face_folder.SAFETENSORS, metadata={"format": "pt"})
        files.write_json(draft / hugging_face_folder.CONFIG, network)
        files.write_json(draft / hugging_face_folder.PREPROCESSOR, preprocessor)


def network_config(model: Mapping[str, files.Json], names: Sequence[str]) -> dict[str, object]:
    """Return the content of config.json for the `model` of TAO's spec and the names of the classes."""
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


def preprocessor_config(dataset: Mapping[str, files.Json], num_labels: int) -> dict[str, object]:
    """Return the content of preprocessor_config.json: the size that TAO validates at, and its normalisation."""
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
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--label-map", type=Path, required=True, help="label_map.json that convert wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    build(args.checkpoint, args.label_map, args.out)
    written = hugging_face_folder.SAFETENSORS, hugging_face_folder.CONFIG, hugging_face_folder.PREPROCESSOR
    print(f"{args.out}: {', '.join(written)}")


if __name__ == "__main__":
    command_line.run(main)
