"""app: a page on which engines are tried in a browser on this machine (docs/demo.md).

Drop a picture or a video, and see overlay, legend, segments and latency of the chosen engine. Uploads and results are
in a folder that is deleted at the end. Needs Gradio, and what the engines need.
"""

import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from stages.engines import loading, manifest
from stages.engines.loading import EnginePredictor
from stages.foundation import command_line, files
from stages.media import segment_list
from stages.media.drawing import Painter
from stages.media.frame_sources import open_source
from stages.releases import received

log = logging.getLogger(__name__)

MAX_FRAMES = 300
"""Frames of a video that are shown."""
CODEC = "VP80"
"""Of overlay videos, in WebM: browsers play it, and OpenCV's wheel writes it."""
COLUMNS = ["id", "class", "thing", "score", "area in pixels", "left, top, width, height"]


def runnable(folder: Path) -> dict[str, Path]:
    """Return the engines below a folder that run here, by their targets' ids; log why others do not.

    Raises RuntimeError where none does.
    """
    found = {}
    for path in sorted(folder.glob(f"*/{manifest.NAME}")):
        try:
            received.check_engine(path.parent)
            name, target = manifest.target_of(path.parent)
            manifest.check_run_host(name, target)
            found[name] = path.parent
        except (RuntimeError, ModuleNotFoundError) as error:
            log.info("%s is not offered: %s", files.printable(path.parent), error)
    if not found:
        raise RuntimeError(f"{files.printable(folder)}: no engine that runs here; run `make all`, or `make pull`")
    return found


class Engines:
    """Runs engines on uploads. Each is loaded when it is first chosen."""

    def __init__(self, folders: dict[str, Path], results: Path) -> None:
        """`folders` are those of engines by id. Videos are written to the folder `results`."""
        self._folders, self._results = folders, results
        self._loaded: dict[str, tuple[EnginePredictor, Painter]] = {}

    def show(self, name: str, upload: str | None) -> tuple[str, Any, Any, list[list[Any]]]:
        """Return a line of text, the overlay picture or the overlay video, and the segments of the first frame."""
        if not upload:
            return "Drop a picture or a video.", None, None, []
        try:
            return self._run(name, Path(upload))
        except (*command_line.USER_ERRORS, cv2.error) as error:
            # The user knows the file by its name alone.
            line = command_line.message(error).replace(f"{files.printable(Path(upload).parent)}/", "")
            return " ".join(line.split()), None, None, []

    def _run(self, name: str, upload: Path) -> tuple[str, Any, Any, list[list[Any]]]:
        predictor, painter = self._load(name)
        source = open_source(str(upload))
        video = self._results / f"{time.time_ns()}.webm"
        first, writer, times, rows = None, None, [], []
        for frame in source:
            start = time.perf_counter()
            (found,) = predictor.segments([frame.rgb])
            times.append(1000 * (time.perf_counter() - start))
            overlay = painter.draw(frame.rgb, found, [])
            if first is None:
                first, rows = overlay, segment_list.rows(found, painter.categories)
                size = overlay.shape[1], overlay.shape[0]
                if not source.still:
                    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*CODEC), source.fps, size)
            if writer is not None:
                writer.write(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
            if len(times) == MAX_FRAMES:
                source.stop()
        if first is None:
            raise ValueError(f"{upload.name}: can't be read as a picture or a video; drop a JPEG, a PNG or an MP4")
        table = [
            [r["id"], r["category"], bool(r["isthing"]), r["score"], r["area_px"], ", ".join(map(str, r["bbox"]))]
            for r in rows
        ]
        latency = f"{name}: {statistics.median(times):.1f} ms a frame"
        if writer is None:
            return f"{latency}, {len(table)} segments", first, None, table
        writer.release()
        if not video.is_file() or not video.stat().st_size:
            raise RuntimeError(f"{upload.name}: this OpenCV can't write {size[0]} x {size[1]} pixels as {CODEC}")
        counted = f"the first {MAX_FRAMES} frames" if len(times) == MAX_FRAMES else f"{len(times)} frames"
        return f"{latency} (median of {counted}); segments of the first frame: {len(table)}", None, str(video), table

    def _load(self, name: str) -> tuple[EnginePredictor, Painter]:
        if name not in self._loaded:
            folder = self._folders[name]
            predictor = loading.load(folder, *manifest.target_of(folder))
            self._loaded[name] = predictor, Painter(predictor.description.categories)
        return self._loaded[name]


def page(engines: Engines, names: list[str]) -> Any:
    """Return the page, a gradio.Blocks."""
    import gradio

    with gradio.Blocks(title="vistas2engine", analytics_enabled=False) as blocks:
        with gradio.Row():
            upload = gradio.File(label="A picture or a video", type="filepath")
            engine = gradio.Dropdown(names, value=names[0], label="Engine")
        line = gradio.Textbox(label="Result", value="Drop a picture or a video.", interactive=False)
        # Without Gradio's button that shares a picture by another service.
        picture = gradio.Image(
            label="Overlay and legend", format="png", buttons=["download", "fullscreen"], interactive=False
        )
        video = gradio.Video(label="Overlay and legend", interactive=False, autoplay=True, visible=False)
        table = gradio.Dataframe(headers=COLUMNS, label="Segments", interactive=False)

        def answer(name: str, uploaded: str | None) -> tuple[Any, ...]:
            told, drawn, played, rows = engines.show(name, uploaded)
            shown = played is None
            return told, gradio.update(value=drawn, visible=shown), gradio.update(value=played, visible=not shown), rows

        # One after another: an engine works on one batch at a time.
        gradio.on(
            [upload.change, engine.change], answer, [engine, upload], [line, picture, video, table],
            concurrency_limit=1,
        )  # fmt: skip
    return blocks


def main() -> None:
    """Command line of `make demo`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engines", type=Path, default=Path("data/engines"), help="folder of engines' folders")
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1")
    parser.add_argument("--max-upload-mb", type=int, default=500, help="most megabytes of an upload")
    args = parser.parse_args()
    folders = runnable(args.engines)
    with tempfile.TemporaryDirectory(prefix="vistas2engine_demo.") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import gradio

        logging.getLogger("httpx").setLevel(logging.WARNING)
        print(f"http://127.0.0.1:{args.port} offers {', '.join(folders)}; Ctrl-C ends it", flush=True)
        # No fonts from the network.
        theme = gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"])
        page(Engines(folders, Path(folder)), [*folders]).launch(
            server_name="127.0.0.1",
            server_port=args.port,
            share=False,
            quiet=True,
            theme=theme,
            max_file_size=f"{args.max_upload_mb}mb",
        )


if __name__ == "__main__":
    command_line.run(main)
