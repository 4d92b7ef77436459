"""Reads weights of a Mask2Former: files of the original code and of TAO, and folders of Hugging Face's transformers."""

from dataclasses import dataclass
from pathlib import Path

from stages.weights import formats, hugging_face_folder, state_dict, tensor_files, wrappers
from stages.weights.formats import Spec
from stages.weights.messages import first_five
from stages.weights.state_dict import StateDict


@dataclass(frozen=True)
class Weights:
    """A network's parameters, and what came with them."""

    path: Path
    parameters: StateDict
    """By TAO's names, float32. No-object is the first row of the class head, unless `undecided` is set."""
    undecided: str = ""
    """Error message if it is not known which row of the class head is no-object."""
    config: dict[str, object] | None = None
    """Content of Hugging Face's config.json."""
    spec: Spec | None = None
    """Experiment spec beside a file of TAO."""

    @property
    def state(self) -> StateDict:
        """The parameters, with no-object first. Raises ValueError if that is undecided."""
        if self.undecided:
            raise ValueError(self.undecided)
        return self.parameters

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes in order, or None if the file has no names. Raises ValueError if they are ambiguous."""
        return hugging_face_folder.class_names(self.path, self.config) if self.config else None


def read(path: Path, stated: str = "") -> Weights:
    """Read a file or folder. `stated` is model.weights_format; if it is empty, the format is detected.

    Raises FileNotFoundError if `path` does not exist, ValueError if it holds no Mask2Former, can't be read safely, or
    has another format than `stated`.
    """
    if path.is_dir():
        return _read_folder(path, stated)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found (model.weights); {tensor_files.EXPECTED}; put it there")
    content = tensor_files.read(path)
    own, criterion = wrappers.extract(path, content)
    if any(name.startswith(("model.", "class_predictor.")) for name in own):
        raise ValueError(
            f"{path}: found a network of Hugging Face's transformers without its {hugging_face_folder.CONFIG}; set "
            "model.weights to the folder that holds both"
        )
    state = tensor_files.to_float32(path, state_dict.without_unused(own))
    spec = formats.find_spec(path, len(state.get(f"{state_dict.CLASS_HEAD}.bias", ())) - 1)
    has_tao_mark = isinstance(content, dict) and content.get("tao_model") == "mask2former"
    kind = formats.detect(path, has_tao_mark, state, criterion, spec, stated)
    if kind == formats.TAO:
        return Weights(path, state, spec=spec)
    undecided = (
        f"{path}: its content does not show whether TAO wrote it, with no-object in the first row of "
        f"{state_dict.CLASS_HEAD}, or the original Mask2Former, with no-object in the last row (found no "
        f"{formats.EMPTY_WEIGHT} in it and no {formats.SPEC_NAMES[0]} of TAO beside it); set "
        f"model.weights_format={formats.TAO} or model.weights_format={formats.ORIGINAL}"
    )
    return Weights(path, state_dict.from_original(state), undecided="" if kind else undecided)


def _read_folder(path: Path, stated: str) -> Weights:
    content = hugging_face_folder.read_config(path)
    if stated not in ("", formats.HUGGING_FACE):
        raise ValueError(
            f"{path}: model.weights_format is {stated}, but the folder is one of Hugging Face "
            f"({hugging_face_folder.CONFIG}); set model.weights_format={formats.HUGGING_FACE}, or model.weights to a "
            "file"
        )
    return Weights(path, hugging_face_folder.read_parameters(path), config=content)


def read_backbone(path: Path) -> StateDict:
    """Read a Swin's parameters, by the original Swin's names, from a file of its releases: {"model": parameters}.

    Raises ValueError if the file holds anything else, because TAO skips parameters whose names it does not know without
    an error.
    """
    content = tensor_files.read(path)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        found = first_five(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: found {found}, expected a .pth of the original Swin, whose one key is model")
    return tensor_files.to_float32(path, state_dict.without_unused(state))


def hashed_file(path: Path) -> Path:
    """Return the file whose SHA-256 stands for the weights: in a folder, the one that holds or lists its tensors."""
    return hugging_face_folder.tensor_file(path) if path.is_dir() else path
