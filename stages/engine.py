"""engine@TARGET: ONNX -> an engine for one target, with engine.json beside it.

Checks this host against the target before any work. Cost: seconds to minutes. Not deterministic: builders choose
by timing, so an engine is an immutable artifact that its sidecar describes.
"""

import argparse
import logging
import time
from pathlib import Path

from stages import config, files
from stages.engines import base, sidecar

log = logging.getLogger(__name__)


def build(onnx_file: Path, out: Path, name: str, target: config.Target) -> None:
    """Build the engine of target `name` from `onnx_file` into the folder `out`.

    Raises RuntimeError when this host is not what the target needs, or with the builder's message.
    """
    sidecar.check_host(name, target)
    backend = base.backend(target)
    with files.aside(out) as draft:
        draft.mkdir()
        engine = draft / f"{name}{backend.SUFFIX}"
        start = time.perf_counter()
        backend.build(onnx_file, engine, target)
        seconds = time.perf_counter() - start
        sidecar.write(draft, name, engine, onnx_file, seconds, target)
        log.info("%s: %.1f MB in %.1f s", name, engine.stat().st_size / 1e6, seconds)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="ONNX file in the target's precision")
    parser.add_argument("--target", required=True, help="target id, a key of targets in params.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the engine and engine.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.onnx, args.out, args.target, config.load().target(args.target))


if __name__ == "__main__":
    main()
