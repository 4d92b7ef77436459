"""tune: measure the tiles of our kernels on this machine's GPU, and write the fastest to conf/tiles. Runs on devices.

Run by `make tune TARGET=id`, or by `python3 kit_ID tune` on a board, where the engine of a target of `builder: cuda` is
and a GPU that it has machine code for. The file has a line for each call for which another tile than the builder's
estimate is faster. conf/target/ID.yaml takes it, so that `make all` builds the engine again. Lines of other compute
capabilities stay.
"""

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages import config
from stages.commands import results
from stages.engines import manifest
from stages.engines.cuda import compiler, driver, gpu, tuning
from stages.engines.cuda.launch_plans import tuned
from stages.engines.cuda.launch_plans.machine import Machine
from stages.foundation import command_line, files
from stages.inference.steps import KernelCall

FOLDER = Path("conf/tiles")


def this_machine(name: str, target: config.Target) -> tuple[gpu.Gpu, Machine]:
    """Return this process's GPU, and for which plans of the target's engine it measures.

    Raises RuntimeError where there is no GPU, or where the engine has no machine code for it, and ValueError for a
    target of another builder.
    """
    if target.builder is not config.Builder.cuda:
        raise ValueError(f"target {name} has builder: {target.builder.value}, which has no tiles; tune one of cuda")
    found = gpu.current()
    if found is None:
        raise RuntimeError(
            "tiles are measured on a GPU, found no NVIDIA GPU or no driver; run it on the target's board"
        )
    chosen = gpu.code_for(found.compute_capability, target.compute_capabilities)
    if chosen in ("", gpu.PTX):
        raise RuntimeError(
            f"target {name} has machine code for compute capability {', '.join(target.compute_capabilities)}, found "
            f"{found.compute_capability} ({found.name}); name it in compute_capabilities of conf/target"
        )
    return found, Machine(chosen, driver.multiprocessors())


def former_lines(out: Path, machine: Machine) -> list[str]:
    """Return the lines of an earlier file that are of other compute capabilities.

    Raises ValueError where `out` is a file that this command did not write.
    """
    if not out.exists():
        return []
    content = [line for line in out.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = [line.removeprefix("- ") for line in content[1:]]
    if content[:1] not in (["tiles:"], ["tiles: []"]) or not all(config.TILE.fullmatch(line) for line in found):
        raise ValueError(f"{files.printable(out)} is there, and this command did not write it; give OUT another name")
    own = f"{machine.compute_capability}/"
    return [line for line in found if not line.startswith(own)]


def build(engine: Path, out: Path, name: str, target: config.Target) -> None:
    """Measure the calls of the engine in folder `engine` on this GPU and write the file `out`.

    Raises as this_machine, former_lines and manifest.verified_engine.
    """
    found, machine = this_machine(name, target)
    others = former_lines(out, machine)
    calls = [
        step
        for step in manifest.verified_engine(engine, name, target).description.steps
        if isinstance(step, KernelCall)
    ]
    candidates = tuning.candidates(calls, machine)
    plans = tuning.all_plans(candidates, machine)
    print(f"{found.name}, {machine.multiprocessors} multiprocessors: {len(candidates)} calls, {len(plans)} plans")
    compiler.require_capability(compiler.nvrtc(target.cuda_major), machine.compute_capability)
    # NVRTC computes without Python's lock. The code of all plans is more than memory should hold.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_one(digest: str) -> None:
            plan = plans[digest]
            code = compiler.compile_source(
                plan.source, plan.defines, machine.compute_capability, cuda_major=target.cuda_major
            )
            Path(folder, digest).write_bytes(code)

        list(pool.map(compile_one, plans))
        measured = []
        for call_name, (call, choices) in candidates.items():
            one = tuning.measure(call, choices, machine, lambda plan: Path(folder, plan.code_digest()).read_bytes())
            measured.append(one)
            gain = f", {one.best_ms:.4f} ms by {tuned.words(one.best)}" if one.best != choices[0] else ""
            print(f"{call_name}: {one.default_ms:.4f} ms{gain}", flush=True)
            for wrong in one.wrong:
                print(f"left out, as its answer is another one: {tuned.words(wrong)}", flush=True)
    lines = sorted([*others, *tuning.lines(measured, machine)])
    before, after = (sum(getattr(one, f"{which}_ms") for one in measured) for which in ("default", "best"))
    comment = re.sub(r"[^ -~]", "?", f"{found.name}, driver {found.driver}, {machine.multiprocessors} multiprocessors")
    with files.atomic_write(out) as draft:
        head = f"# Written by `make tune TARGET={name}`, the last time on {comment}.\n"
        body = "".join(f"\n- {line}" for line in lines) or " []"
        draft.write_text(f"{head}tiles:{body}\n", encoding="utf-8")
    print(f"each kind of call once: {before:.3f} ms before, {after:.3f} ms with the tiles in {files.printable(out)}")
    if not out.resolve().is_relative_to(FOLDER.resolve()):
        print(f"Copy it to {FOLDER / f'{name}.yaml'} in the workspace, and run `make all` there")


def main() -> None:
    """Command line of `make tune`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    parser.add_argument("--out", type=Path, help="file for the tiles; default: conf/tiles/TARGET.yaml")
    args = parser.parse_args()
    target = config.find_target(config.load(args.params), args.target)
    folder = results.Layout(Path(), args.target).engine
    build(folder, args.out or FOLDER / f"{args.target}.yaml", args.target, target)


if __name__ == "__main__":
    command_line.run(main)
