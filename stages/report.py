"""report: show figures, maps and parameters of all stages on one self-contained HTML page, out/index.html.

A caption names the file that its numbers come from. The page itself computes the bytes of a frame, from the shapes of
the graph, and where maps differ. It has no date or commit of its own, only those in its inputs. Cost: seconds, and
0.2 s of a core for each set of maps and validation picture of two megapixels. Deterministic: the same inputs give the
same bytes.
"""

import logging
from pathlib import Path

from stages import config
from stages.foundation import command_line, files

log = logging.getLogger(__name__)


def build(data: Path, dvc_yaml: Path, out: Path, cfg: config.Config) -> None:
    """Write out/index.html from the artifacts in `data` and the stages of `dvc_yaml`.

    The page names files that are absent. Raises FileNotFoundError where the files of convert or dvc.yaml are absent,
    ValueError naming a file that can't be read, and RuntimeError where DVC can't resolve dvc.yaml.
    """
    from stages.report_page import page, sources

    text = page.render(sources.read(data, dvc_yaml, cfg))
    with files.atomic_write(out) as draft:
        draft.mkdir()
        (draft / "index.html").write_text(text, encoding="utf-8")
    log.info("%s: %.1f MB", out / "index.html", len(text.encode()) / 1e6)


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--pipeline", type=Path, required=True, help="dvc.yaml, with params.yaml beside it")
    parser.add_argument("--out", type=Path, required=True, help="folder for index.html")
    args = parser.parse_args()
    build(args.data, args.pipeline, args.out, config.load())


if __name__ == "__main__":
    command_line.run(main)
