"""params: conf/ -> params.yaml, by the composition that DVC itself uses.

`make params [PROFILE=name] [OVERRIDES='key=value ...']`. The file is replaced only when the result is valid. With
`--out params.json` the same for machines that only build and run engines and have no YAML reader.
"""

import argparse
import json
import sys
from pathlib import Path

from stages import config
from stages.foundation import files
from stages.tao import spec


def build(conf: Path, out: Path, overrides: list[str]) -> bool:
    """Compose conf/config.yaml with Hydra `overrides`, check it and write `out`; return whether `out` changed.

    Raises Hydra's and OmegaConf's errors with the full key, and ValueError for a value out of range.
    """
    from dvc.utils.hydra import compose_and_dump

    old = out.read_bytes() if out.exists() else None
    with files.aside(out) as draft:
        # DVC chooses the format by the file's suffix.
        composed = draft.with_name(f"{draft.name}.yaml")
        try:
            compose_and_dump(composed, str(conf.resolve()), None, "config", str(conf.resolve().parent), overrides)
            checked = config.load(composed)
            spec.check(checked)
            if out.suffix == ".json":
                draft.write_text(json.dumps(config.plain(checked), indent=2) + "\n", encoding="utf-8")
            else:
                composed.rename(draft)
        finally:
            composed.unlink(missing_ok=True)
        return draft.read_bytes() != old


def main() -> int:
    """Command line of `make params`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf", type=Path, default=Path("conf"), help="folder of the Hydra configs")
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), help="file to write, .yaml or .json")
    parser.add_argument("--profile", default="", help="a file of conf/profile; default: conf/config.yaml's choice")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as train.epochs=3")
    args = parser.parse_args()
    chosen = [f"profile={args.profile}"] if args.profile else []
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        changed = build(args.conf, args.out, chosen + args.overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"{args.out} is left as it was: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {'updated' if changed else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
