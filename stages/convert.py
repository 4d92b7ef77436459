"""convert: data sets as they are downloaded -> the COCO files that TAO 7.3 reads.

Each split, train and val, gets a folder with
  panoptic.json    segments of each picture, with their ids as colours in panoptic/*.png
  instances.json   things only, masks as compressed run lengths
  semantic.jsonl   a line for each picture, with its classes in semantic/*.png (8-bit grey, 0 = ignore)
  sources.json     for each source its format and the category_ids that it labels everywhere, and in part;
                   for train also `repeat`, the times that a picture comes in an epoch
  images/          only pictures that were rewritten: scaled, turned, or decoded differently by TAO than by the engines
and both splits share label_map.json and statistics.json. File names in the JSON files are relative to the split's
folder. Formats: cocodataset.org/#format-data, and TAO's data loaders.

Cost: most of the time goes into decoding each picture twice and compressing PNGs. Deterministic: ids follow the order
of the sources and of the sorted keys, for any number of workers. An interrupted run continues where it stopped.
"""

import logging
from pathlib import Path

from stages import config
from stages.conversion import journal, membership, overlap, picture, split, taxonomy
from stages.foundation import command_line, files
from stages.sets import formats
from stages.sets.raw_set import Problem
from stages.vistas import plausibility, reader

log = logging.getLogger(__name__)


def build(root: Path, out: Path, metrics: Path, tables: Path, cfg: config.Data) -> None:
    """Convert the sources at `root` into the folder `out`, and write counts to the JSON file `metrics`.

    `tables` is the folder of the taxonomies and of the split lists. Image ids and annotation ids start at 1. Both
    splits list the same categories, also those that no segment has.

    Raises FileNotFoundError or ValueError, naming the file, for a set that can't be converted: by the first bad picture
    unless data.on_error is skip, else if a split has more than data.max_skipped of them. Raises RuntimeError if a
    worker process dies. The former output stays, and so does the draft, which the next run continues.
    """
    sources = cfg.sources or {"vistas": config.Source()}
    found = {name: formats.find(source, root, f"data.sources.{name}") for name, source in sources.items()}
    rows = {name: taxonomy.of_set(tables, sources[name].taxonomy, found[name]) for name in found}
    categories, mappings = taxonomy.build({name: (found[name].labels, rows[name]) for name in found})
    things = frozenset(c["id"] for c in categories if c["isthing"])
    summary: dict[str, object] = {"classes": len(categories), "things": len(things)}
    coverage = {name: taxonomy.coverage(rows[name], categories) for name in found}
    statistics: dict[str, object] = {
        "sources": {
            name: {
                "version": source.version,
                "root": str(source.root),
                "classes_never_labelled": [c["name"] for c in coverage[name].never],
                "classes_partly_labelled": [c["name"] for c in coverage[name].partly],
            }
            for name, source in found.items()
        }
    }
    labelled = {
        name: {
            "format": source.format.value,
            "category_ids_everywhere": [c["id"] for c in coverage[name].everywhere],
            "category_ids_partly": [c["id"] for c in coverage[name].partly],
        }
        for name, source in found.items()
    }
    with files.atomic_write(out, keep=True) as draft:
        draft.mkdir(exist_ok=True)
        label_map = [
            {"id": c["id"], "name": c["name"], "color": c["color"], "isthing": c["isthing"]} for c in categories
        ]
        files.write_json(draft / "label_map.json", label_map)
        limits = picture.Limits(cfg.max_edge_px, cfg.min_segment_px, cfg.small_segments)
        converted = {name: picture.Source(raw, mappings[name]) for name, raw in found.items()}
        work = {
            name: [
                scene if isinstance(scene, Problem) else picture.Task(scene, source, file_name)
                for source, file_name, scene in membership.pictures(found, name, tables, cfg)
            ]
            for name in reader.SPLITS
        }
        overlap.check(work["train"], work["val"], cfg.check_splits)
        for name in reader.SPLITS:
            settings = picture.Settings(converted, things, draft / name, out / name, limits, cfg.bare_file_names)
            masks = {
                source: plausibility.MaskStatistics(raw.labels)
                for source, raw in found.items()
                if raw.format is config.Format.vistas
            }
            counted = split.convert(name, work[name], settings, categories, masks, cfg)
            # Training alone repeats pictures.
            repeats = {source: {"repeat": sources[source].repeat} if name == "train" else {} for source in labelled}
            files.write_json(draft / name / "sources.json", {s: {**labelled[s], **repeats[s]} for s in labelled})
            summary[name], statistics[name] = counted.summary(), counted.content()
            log.info("%s: %s", name, summary[name])
        files.write_json(draft / "statistics.json", statistics)
    for name in reader.SPLITS:
        (out / name / journal.FILE_NAME).unlink()
    files.write_json(metrics, summary)


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the folders of the sources")
    parser.add_argument("--tables", type=Path, required=True, help="folder of taxonomies and split lists: conf/tables")
    parser.add_argument("--out", type=Path, required=True, help="folder for the COCO files")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the counts")
    choices = [choice.value for choice in config.OnError]
    parser.add_argument("--on-error", choices=choices, help="whether a bad picture ends the run or is left out")
    args = parser.parse_args()
    cfg = config.load().data
    if args.on_error:
        cfg.on_error = config.OnError(args.on_error)
    try:
        build(args.root, args.out, args.metrics, args.tables, cfg)
    except OSError as error:
        if error.errno is None:
            raise
        # The system's message, such as that of a full disk, names no fix, and no path if the file was open already.
        found = command_line.message(error) if error.filename else f"{args.out}: {error.strerror}"
        raise OSError(f"{found}; fix that and run the same command again: it continues where it stopped") from error


if __name__ == "__main__":
    command_line.run(main)
