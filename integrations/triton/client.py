"""client: send pictures to a model that `make triton` wrote, and print its segments. An example to copy.

    python client.py --model vistas2engine_gpu --url localhost:8000 --out maps picture.jpg

Needs tritonclient[http], NumPy and OpenCV, and nothing of this project. With --out it writes for each picture the map
of segments, NAME.png (16 bits, 0 where there is none), and the list of segments, NAME.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

IDS, LIST = "segment_ids", "segments"


def read(path: Path) -> np.ndarray:
    """Read a picture, uint8 [H, W, 3] in RGB, upright. Raises ValueError if it can't be read."""
    content = np.fromfile(path, np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if bgr is None:
        raise ValueError(f"{path}: can't be read as a picture; give a JPEG or a PNG")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def ask(client: triton.InferenceServerClient, model: str, rgb: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Return the map of a picture, int32 [H, W], and its segments."""
    frame = triton.InferInput("frame", [1, *rgb.shape], "UINT8")
    frame.set_data_from_numpy(rgb[None])
    answer = client.infer(model, [frame], outputs=[triton.InferRequestedOutput(name) for name in (IDS, LIST)])
    return answer.as_numpy(IDS)[0], json.loads(answer.as_numpy(LIST)[0, 0])


def write(folder: Path, name: str, ids: np.ndarray, segments: list[dict]) -> None:
    """Write NAME.png and NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(cv2.imencode(".png", ids.astype(np.uint16))[1].tobytes())
    (folder / f"{name}.json").write_text(json.dumps(segments, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="name of the model, such as vistas2engine_gpu")
    parser.add_argument("--url", default="localhost:8000", help="HOST:PORT of Triton's HTTP service, without http://")
    parser.add_argument("--out", type=Path, help="folder for maps and lists; default: nothing is written")
    parser.add_argument("picture", type=Path, nargs="+")
    args = parser.parse_args()
    with triton.InferenceServerClient(args.url) as client:
        for path in args.picture:
            rgb = read(path)
            start = time.perf_counter()
            ids, segments = ask(client, args.model, rgb)
            milliseconds = 1000 * (time.perf_counter() - start)
            classes = ", ".join(sorted({segment["category"] for segment in segments}))
            print(f"{path}: {len(segments)} segments in {milliseconds:.1f} ms: {classes}")
            if args.out:
                write(args.out, path.name, ids, segments)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, InferenceServerException) as error:
        sys.exit(f"error: {error}")
