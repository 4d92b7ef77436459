"""model: an engine of vistas2engine behind Triton's Python backend. `make triton` copies this file to NAME/1/model.py.

Beside it are `engine`, the engine's folder, and `code`, the modules that run it. The server's Python must be 3.10 or
newer with NumPy, OpenCV and the library of the engine's builder; an engine of our kernels needs NVIDIA's driver only.

A request has pictures of one size, uint8 [n, H, W, 3], RGB, in `frame`. They are fitted into the engine's frames as
`make predict` does. Outputs are those of the engine (docs/outputs.md), and for the pictures' own size `segment_ids`,
int32 [n, H, W], and `segments`, [n, 1] of JSON lists like the key `segments` of segments.jsonl. Maps are decoded only
for requests that ask for them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
# Nothing is written to the model repository.
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE / "code"))

from stages.engines import loading, manifest  # noqa: E402
from stages.foundation import command_line  # noqa: E402
from stages.media import segment_list  # noqa: E402
from stages.releases import received  # noqa: E402

INPUT, IDS, LIST = "frame", "segment_ids", "segments"


def require_numpy() -> None:
    """Raise RuntimeError where the backend reads NumPy's arrays as empty, as that of Triton 2.51 does with NumPy 2."""
    array = np.arange(1, 5, dtype=np.int32)
    seen = pb_utils.Tensor.from_dlpack("probe", pb_utils.Tensor("probe", array).to_dlpack()).as_numpy()
    if not np.array_equal(seen, array):
        raise RuntimeError(
            f"this Triton's Python backend can't read arrays of NumPy {np.__version__}, and answers would be empty; "
            "install numpy<2 and opencv-python-headless<5 for the server's Python"
        )


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine.

        Raises RuntimeError where the backend does not fit NumPy, ValueError for an instance on another GPU than the
        first, and as received.check_engine, manifest.target_of and loading.load do.
        """
        require_numpy()
        gpu = args["model_instance_device_id"]
        if args["model_instance_kind"] == "GPU" and int(gpu):
            raise ValueError(
                f"{args['model_name']}: an instance on GPU {gpu}, expected gpus: [ 0 ] in config.pbtxt: an "
                "engine runs on the first GPU of its process; start a server for each GPU, with CUDA_VISIBLE_DEVICES"
            )
        folder = HERE / "engine"
        received.check_engine(folder)
        name, target = manifest.target_of(folder)
        self._predictor = loading.load(folder, name, target)
        self._categories = {category["id"]: category for category in self._predictor.description.categories}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, in their order. Those of a call that fails get its error."""
        pictures = [pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        wanted = {name for request in requests for name in request.requested_output_names()}
        try:
            found = self._run([picture for batch in pictures for picture in batch], not wanted.isdisjoint({IDS, LIST}))
        except Exception as error:  # The server tells the client.
            failed = pb_utils.TritonError(command_line.message(error))
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        responses = []
        for request, batch in zip(requests, pictures, strict=True):
            own, found = found[: len(batch)], found[len(batch) :]
            tensors = [
                pb_utils.Tensor(name, np.stack([one[name] for one in own])) for name in request.requested_output_names()
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def _run(self, pictures: list[Any], decoded: bool) -> list[dict[str, Any]]:
        """Return the outputs for each picture, by name."""
        found = []
        size = self._predictor.cfg.batch_size
        for start in range(0, len(pictures), size):
            batch, fits = self._predictor.fit(pictures[start : start + size])
            outputs = self._predictor.run(batch)
            answers = [{name: array[index] for name, array in outputs.items()} for index in range(len(fits))]
            if decoded:
                for answer, segments in zip(answers, self._predictor.decode(outputs, fits), strict=True):
                    rows = json.dumps(segment_list.rows(segments, self._categories))
                    answer |= {IDS: segments.ids, LIST: np.array([rows.encode()], np.object_)}
            found += answers
        return found
