"""Finds pictures of the validation split that are training pictures too: figures on them would say nothing.

Such a split is a copy of the training pictures, so only files of the same key are compared, byte by byte.
"""

import filecmp
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stages import config
from stages.conversion import picture
from stages.foundation import files

log = logging.getLogger(__name__)


def check(train: Sequence[picture.Work], val: Sequence[picture.Work], choice: config.CheckSplits) -> None:
    """Raise ValueError where at least half of the pictures of `val` lie in `train` too, under the same key.

    Fewer are a warning, and so are all if `choice` is warn.
    """
    pairs = list(_repeated(train, val))
    if not pairs:
        return
    one, other = map(files.printable, pairs[0])
    found = f"{len(pairs)} of {len(val)} validation pictures are training pictures too, such as {other}, which is {one}"
    if 2 * len(pairs) >= len(val) and choice is config.CheckSplits.fail:
        raise ValueError(
            f"{found}; restore the set's own validation pictures, or set data.splits in conf/data to fraction, or "
            "data.check_splits to warn if that is what you want"
        )
    log.warning("%s", found)


def _repeated(train: Iterable[picture.Work], val: Iterable[picture.Work]) -> Iterator[tuple[Path, Path]]:
    """Yield each picture of `val` that is in `train` too, after its twin there."""
    by_key: dict[str, list[Path]] = {}
    for task in train:
        if isinstance(task, picture.Task):
            by_key.setdefault(task.scene.key, []).append(task.scene.image)
    for task in val:
        if isinstance(task, picture.Task):
            image = task.scene.image
            twin = next((p for p in by_key.get(task.scene.key, []) if filecmp.cmp(p, image, shallow=False)), None)
            if twin is not None:
                yield twin, image
