"""Times the alternatives to an engine on this machine's GPU: PyTorch, ONNX Runtime and Hugging Face's merge.

Run: python3 -m benchmarks.peers --params params.json --checkpoint data/checkpoint
--reference data/onnx/cuda/exported/reference.npz --categories data/onnx/cuda/fp16/graph.json --out peers.json

Each time runs from a frame's bytes in host memory to its panoptic map in host memory, one frame at a time. Frames are
scaled, padded and normalised on the GPU. The alternatives take turns. Those that can't run on a machine are left out
and named in the results with the reason.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import tao_graph
from stages import benchmark, config
from stages.foundation import command_line, files
from stages.inference import frames, segments
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD
from stages.inference.segments import Segments
from stages.reference import comparison
from stages.reference.tao_model import Checkpoint

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Merge = Callable[[torch.Tensor, torch.Tensor], Segments]


class Peers:
    """A checkpoint on the GPU, and the alternatives to run it."""

    def __init__(self, folder: Path, num_things: int, cfg: config.Deploy, device: str) -> None:
        self.cfg, self.num_things, self.device = cfg, num_things, device
        self.tao = Checkpoint(folder, num_things, cfg, device)
        self._mean, self._std = (255 * torch.tensor(x, device=device).view(3, 1, 1) for x in (PIXEL_MEAN, PIXEL_STD))

    def pixels(self, frame: frames.Frame) -> torch.Tensor:
        """Return the network's input, float32 [1, 3, height_px, width_px], for a frame, uint8 [H, W, 3]."""
        found = torch.from_numpy(frame).to(self.device).permute(2, 0, 1).float()
        height, width = frames.frame_in_input(self.cfg)
        if (height, width) != found.shape[1:]:
            found = F.interpolate(found[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        padded = F.pad(found, (0, self.cfg.width_px - width, 0, self.cfg.height_px - height))
        return ((padded - self._mean) / self._std)[None]

    def eager(self, dtype: torch.dtype) -> Network:
        """Return TAO's unchanged network, run in `dtype` by autocast."""
        return self._network(self.tao.net, dtype)

    def compiled(self, dtype: torch.dtype, mode: str) -> Network:
        """Return TAO's network by torch.compile, without TAO's own operator, whose shapes it does not know."""
        net = copy.deepcopy(self.tao.net)
        for module in net.modules():
            if type(module).__name__ == "MSDeformAttn":
                module.forward = torch.compiler.disable(module.forward)
        return self._network(torch.compile(net, mode=mode), dtype)

    def _network(self, net: Any, dtype: torch.dtype) -> Network:
        def run(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(self.device, dtype, enabled=dtype is not torch.float32):
                found = net(pixels)
            return found["pred_logits"][0].float(), found["pred_masks"][0].float()

        return run

    def merge_as_tao(self, logits: torch.Tensor, masks: torch.Tensor) -> Segments:
        """Merge by TAO's own evaluation code, on the GPU."""
        return self.tao.merge(config.Mode.panoptic, logits, self.tao.at_frame(masks))

    def merge_as_hugging_face(self) -> Merge:
        """Return the merge of transformers, post_process_panoptic_segmentation, on the GPU."""
        from transformers import Mask2FormerImageProcessor

        processor = Mask2FormerImageProcessor()

        def merge(logits: torch.Tensor, masks: torch.Tensor) -> Segments:
            # It takes masks without padding, and its class no-object is the last one.
            height, width = frames.frame_in_input(self.cfg)
            rows, columns = masks.shape[1:]
            masks = masks[:, : height * rows // self.cfg.height_px, : width * columns // self.cfg.width_px]
            classes = torch.cat([logits[:, 1:], logits[:, :1]], -1)
            (found,) = processor.post_process_panoptic_segmentation(
                SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None]),
                threshold=self.cfg.object_mask_threshold,
                overlap_mask_area_threshold=self.cfg.overlap_threshold,
                label_ids_to_fuse=set(range(self.num_things, logits.shape[1] - 1)),
                target_sizes=[frames.frame_size(self.cfg)],
            )
            ids = found["segmentation"].cpu().numpy().astype(np.int32)
            return Segments(np.maximum(ids, 0), {s["id"]: s["label_id"] + 1 for s in found["segments_info"]})

        return merge

    def onnxruntime(self, graph: Path) -> Callable[[frames.Frame], Segments]:
        """Return our own graph, which includes the merge, in ONNX Runtime's CUDA provider.

        Raises RuntimeError if this ONNX Runtime has no such provider.
        """
        import onnxruntime

        wanted = "CUDAExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            found = onnxruntime.get_available_providers()
            raise RuntimeError(f"ONNX Runtime {onnxruntime.__version__} has {found}, expected {wanted}")
        session = onnxruntime.InferenceSession(str(graph), providers=[wanted])
        names = [output.name for output in session.get_outputs()]

        def run(frame: frames.Frame) -> Segments:
            outputs = dict(zip(names, session.run(None, {"frame": frame[None]}), strict=True))
            return segments.decode(outputs, 0, self.cfg, self.num_things)

        return run


def main() -> None:
    """Command line of the module."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--categories", type=Path, required=True, help="graph.json of any variant, for the categories")
    parser.add_argument("--onnx", type=Path, help="graph.onnx of the variant onnx, for ONNX Runtime")
    parser.add_argument("--tao-graph", type=Path, help="folder to write TAO's own ONNX file to, for TensorRT")
    parser.add_argument("--rounds", type=int, default=30, help="frames of each alternative, after five for warm-up")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    cfg = config.load(args.params).deploy
    num_things = sum(c["isthing"] for c in files.read_json(args.categories)["categories"])
    expected = np.load(args.reference)
    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} found no GPU, expected one; run it on a machine with a GPU")
    device = "cuda"
    peers = Peers(args.checkpoint, num_things, cfg, device)
    calls: dict[str, Callable[[frames.Frame], Any]] = {}
    left_out: dict[str, str] = {}

    def add(name: str, make: Callable[[], Callable[[frames.Frame], Any]]) -> None:
        try:
            call = make()
            with torch.inference_mode():
                start = time.perf_counter()
                call(expected["frames"][0])
            print(f"{name}: first call {time.perf_counter() - start:.1f} s", flush=True)
            calls[name] = call
        except Exception as error:  # one that can't run must not stop the others
            left_out[name] = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{name}: {left_out[name]}", flush=True)

    def whole(network: Network, merge: Merge) -> Callable[[frames.Frame], Segments]:
        return lambda frame: merge(*network(peers.pixels(frame)))

    def alone(network: Network) -> Callable[[frames.Frame], Any]:
        def call(frame: frames.Frame) -> None:
            network(peers.pixels(frame))
            torch.cuda.synchronize()

        return call

    def compiled(mode: str) -> Callable[[frames.Frame], Segments]:
        return whole(peers.compiled(half, mode), peers.merge_as_tao)

    single, half = torch.float32, torch.float16
    add("eager float32", lambda: whole(peers.eager(single), peers.merge_as_tao))
    add("eager float32, network alone", lambda: alone(peers.eager(single)))
    add("eager fp16", lambda: whole(peers.eager(half), peers.merge_as_tao))
    add("eager fp16, network alone", lambda: alone(peers.eager(half)))
    add("eager fp16, Hugging Face's merge", lambda: whole(peers.eager(half), peers.merge_as_hugging_face()))
    if args.onnx:
        add("ONNX Runtime CUDA, our graph", lambda: peers.onnxruntime(args.onnx))
    if not args.no_compile:
        # The default mode, and the one with CUDA graphs, because launches take most of eager PyTorch's time.
        for mode in ("default", "reduce-overhead"):
            add(f"torch.compile fp16, {mode}", partial(compiled, mode))
    with torch.inference_mode():
        seconds = benchmark.take_turns(
            {name: (call, list(expected["frames"])) for name, call in calls.items()}, 5, args.rounds
        )
        agreeing = {name: agreement_pct(call, expected) for name, call in calls.items()}
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peers": {
            name: benchmark.summary(values, 1) | {"pixel_agreement_pct": agreeing[name]}
            for name, values in seconds.items()
        },
        "left_out": left_out,
    }
    files.write_json(args.out, result)
    print(result)
    if args.tao_graph:
        args.tao_graph.mkdir(parents=True, exist_ok=True)
        tao_graph.write(peers.tao.net.cpu(), args.checkpoint / "spec.yaml", cfg, args.tao_graph)


def agreement_pct(call: Callable[[frames.Frame], Any], expected: Any) -> float | None:
    """Return the agreement of maps with the reference's in % of pixels, or None for a call that returns no map."""
    found = [call(frame) for frame in expected["frames"]]
    return round(comparison.agreement_pct(expected, found), 4) if isinstance(found[0], Segments) else None


if __name__ == "__main__":
    command_line.run(main)
