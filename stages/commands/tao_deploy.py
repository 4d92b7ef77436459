"""tao_deploy: write the spec with which NVIDIA's TAO Deploy evaluates an engine of the graph `tao`. Not a DVC stage.

Run by `make tao-deploy ENGINE=folder OUT=folder`, which then runs the wheel nvidia-tao-deploy (docs/deepstream.md). The
spec has the classes, thresholds and mode of the engine, the validation set, and pictures to draw.
"""

from pathlib import Path

import yaml

from stages import config
from stages.coco import panoptic
from stages.engines import manifest
from stages.foundation import command_line, files, ownership
from stages.inference import frames
from stages.inference.description import Description
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

SPEC = "spec.yaml"


def build(engine: Path, coco: Path, label_map: Path, source: Path, out: Path) -> None:
    """Write out/spec.yaml for the TensorRT engine of a folder, with absolute paths.

    `coco` is the split that is evaluated, `source` the folder of pictures that are drawn. Raises ValueError for an
    engine or a split that TAO Deploy can't take, and where `out` has files of others.
    """
    _, target = manifest.target_of(engine)
    if target.builder is not config.Builder.tensorrt:
        raise ValueError(
            f"{files.printable(engine)}: an engine of {target.builder.value}, expected one of standard TensorRT, which "
            "TAO Deploy runs; name one in ENGINE"
        )
    about = manifest.graph_of(engine)
    require_fit(engine, about)
    count = len(panoptic.read(coco).entries)
    if about.config.mode is config.Mode.semantic and count % about.config.batch_size:
        raise ValueError(
            f"{files.printable(coco)} has {count} pictures, expected a multiple of deploy.batch_size "
            f"{about.config.batch_size}: TAO Deploy fills no batch; export with deploy.batch_size 1"
        )
    file = engine / str(manifest.facts(engine)["file"])
    paths = (path.absolute() for path in (file, coco, label_map, source, out))
    text = yaml.safe_dump(spec(about, *paths), sort_keys=False)
    # TAO Deploy writes its results beside it. They are replaced by those of the next run.
    out.mkdir(parents=True, exist_ok=True)
    record = ownership.Record(out)
    if not record.owns(SPEC):
        raise ValueError(
            f"{files.printable(out / SPEC)} is there, and this command did not write it; choose another OUT"
        )
    with files.atomic_write(out / SPEC) as draft:
        draft.write_text(text, encoding="utf-8")
        record.add(SPEC, draft.stat().st_size)


def require_fit(engine: Path, about: Description) -> None:
    """Raise ValueError for the engine of a graph whose inputs TAO Deploy would make in another way than `make all`."""
    cfg, where = about.config, files.printable(engine)
    if cfg.graph is not config.GraphKind.tao:
        raise ValueError(
            f"{where}: an engine of deploy.graph {cfg.graph.value}, expected tao: TAO Deploy knows no other; "
            "run make all OVERRIDES='deploy.graph=tao deploy.resize=stretch deploy.variants=[onnx]'"
        )
    if frames.frame_in_input(cfg) != frames.input_size(cfg):
        raise ValueError(
            f"{where}: an engine of deploy.resize {cfg.resize.value}, expected stretch: TAO Deploy pads nothing, so "
            "its figures would be of other inputs; set deploy.resize: stretch"
        )


def spec(about: Description, engine: Path, coco: Path, label_map: Path, source: Path, out: Path) -> dict[str, object]:
    """Return the spec of TAO Deploy's tasks evaluate and inference. Keys are those of its ExperimentConfig."""
    cfg = about.config
    return {
        "results_dir": str(out / "results"),
        "model": {
            "mode": cfg.mode.value,
            "object_mask_threshold": cfg.object_mask_threshold,
            "overlap_threshold": cfg.overlap_threshold,
            "sem_seg_head": {"num_classes": len(about.categories)},
        },
        "dataset": {
            # Without it every class counts as a thing, and stuff is not merged.
            "contiguous_id": True,
            "label_map": str(label_map),
            "pixel_mean": PIXEL_MEAN,
            "pixel_std": PIXEL_STD,
            "val": {
                "type": "coco_panoptic",
                "panoptic_json": str(coco / "panoptic.json"),
                "panoptic_dir": str(coco / "panoptic"),
                "img_dir": str(coco),
                "batch_size": cfg.batch_size,
            },
            "test": {"img_dir": str(source), "batch_size": cfg.batch_size},
        },
        "evaluate": {"trt_engine": str(engine)},
        "inference": {"trt_engine": str(engine)},
    }


def main() -> None:
    """Command line of `make tao-deploy`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine of standard TensorRT")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--label-map", type=Path, required=True, help="label_map.json that convert wrote")
    parser.add_argument("--source", type=Path, required=True, help="folder of pictures, drawn in the other modes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    build(args.engine, args.coco, args.label_map, args.source, args.out)
    print(f"{files.printable(args.out / SPEC)}: for scripts/tao_deploy")


if __name__ == "__main__":
    command_line.run(main)
