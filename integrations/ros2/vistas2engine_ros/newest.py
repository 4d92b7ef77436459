"""Hands the newest frame from the thread that receives to the thread that computes. Needs no ROS."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")

RESTART_NS = 1_000_000_000
"""A stamp that is further back than this is not late: the source began anew, as a looped bag does."""


class Newest(Generic[Item]):  # noqa: UP046  # robots have Python 3.10
    """Room for one item. A new item takes the place of one that was not taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Store an item; return whether it took the place of another."""
        with self._changed:
            replaced, self._item = self._item is not None, item
            self._changed.notify()
        return replaced

    def take(self) -> "Item | None":
        """Wait for an item and take it; None after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        """End the waiting of `take`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def is_late(stamp_ns: int, last_ns: "int | None", now_ns: int, max_age_s: float) -> bool:
    """Return whether a frame comes too late: after a newer one, or older than `max_age_s` seconds (0: any age)."""
    if last_ns is not None and 0 < last_ns - stamp_ns <= RESTART_NS:
        return True
    return max_age_s > 0 and now_ns - stamp_ns > max_age_s * 1e9
