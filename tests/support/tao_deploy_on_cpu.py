"""Runs NVIDIA's wheel nvidia-tao-deploy without a GPU: ONNX Runtime in the place of TensorRT, all other steps its own.

python tao_deploy_on_cpu.py RUN_PY TASK ONNX SPEC FOLDER writes what it fed and what it made of the outputs to FOLDER.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

task_name = sys.argv.pop(2)
run_py, model, spec, folder = map(Path, sys.argv[1:])
loaded = importlib.util.spec_from_file_location("run", run_py)
assert loaded is not None
assert loaded.loader is not None
run = importlib.util.module_from_spec(loaded)
loaded.loader.exec_module(run)


class Nothing(type):
    """Names of TensorRT and PyCUDA that are read at import and never used here."""

    def __getattr__(cls, name: str) -> Any:
        return cls


class Name(metaclass=Nothing):
    def __init__(self, *_: object) -> None:
        pass


for name in ("tensorrt", "pycuda.autoinit", "pycuda.driver"):
    run.supply(name).__getattr__ = lambda _: Name
sys.modules["tensorrt"].__version__ = "10.13.3.9"
sys.modules["tensorrt"].nptype = lambda _: np.float32
sys.modules["pycuda"].driver = sys.modules["pycuda.driver"]
run.prepare()
task = importlib.import_module(f"nvidia_tao_deploy.cv.mask2former.scripts.{task_name}")
found: dict[str, list[Any]] = {}


def keep(name: str, value: Any) -> None:
    found.setdefault(name, []).append(value)


class Inferencer(task.Mask2formerInferencer):
    """The wheel's own, but for the engine."""

    def __init__(self, *_: object, batch_size: int, **__: object) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape
        # As InputTensor has them: with the batch, and without.
        self.input_tensors = [SimpleNamespace(tensor_shape=self.shape, shape=self.shape[1:], tensor_dtype=None)]
        self.max_batch_size = batch_size
        self.outputs = self.session.get_outputs()
        functions = (self.semantic_postprocess_fn, self.instance_postprocess_fn, self.panoptic_postprocess_fn)
        self.postprocess_fn_map = dict(zip((1, 3, 4), functions, strict=True))

    def infer(self, imgs: np.ndarray) -> Any:
        keep("inputs", np.array(imgs))
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: np.ascontiguousarray(imgs, np.float32)})
        raw = [SimpleNamespace(host=output.ravel(), numpy_shape=output.shape) for output in outputs]
        return self.postprocess_fn_map[len(raw)](raw)

    def __del__(self) -> None:
        pass


task.Mask2formerInferencer = Inferencer
if hasattr(task, "Visualizer"):

    class Visualizer(task.Visualizer):
        """The wheel's own, which also keeps what it draws."""

        def draw_panoptic_seg_predictions(self, panoptic_seg: np.ndarray, segments_info: Any, **more: Any) -> Any:
            keep("maps", panoptic_seg.copy())
            keep("segments", [dict(each) for each in segments_info])
            return super().draw_panoptic_seg_predictions(panoptic_seg, segments_info, **more)

        def draw_sem_seg(self, sem_seg: np.ndarray, **more: Any) -> Any:
            keep("maps", sem_seg.copy())
            return super().draw_sem_seg(sem_seg, **more)

    task.Visualizer = Visualizer
else:
    evaluated = task.total_intersect_over_union

    def total(results: np.ndarray, truth: np.ndarray, *more: Any, **options: Any) -> Any:
        keep("maps", np.array(results))
        keep("truth", np.array(truth))
        return evaluated(results, truth, *more, **options)

    task.total_intersect_over_union = total

from omegaconf import OmegaConf  # noqa: E402

schema = importlib.import_module("nvidia_tao_deploy.config.mask2former.default_config").ExperimentConfig
task.main(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(spec)))
np.savez(folder / "found.npz", **{name: np.stack(values) for name, values in found.items() if name != "segments"})
(folder / "segments.json").write_text(json.dumps(found.get("segments")))
