"""Ends a process whose connections transfer nothing: the libraries' own timeouts don't cover every wait.

S3's library waits without end for a server that takes a connection and then never answers a PUT.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STALL_S = 120.0
"""A process that neither sends, receives, computes nor reads for this long is ended."""
IDLE_CPU_S, IDLE_BYTES = 0.02, 1 << 18
"""Limits of a waiting process: CPU time per second, and bytes read between two checks."""
ACKED_AND_RECEIVED = 120
"""Offset in bytes of tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info, each of 64 bits."""


@contextmanager
def watching(message: str) -> Iterator[None]:
    """Run a block; if its connections stand still for STALL_S, print the message and exit the process with status 1."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(message, STALL_S, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _watch(message: str, stall_s: float, done: threading.Event) -> None:
    interval_s = stall_s / 10
    last, since = _state(), time.monotonic()
    while not done.wait(interval_s):
        now = _state()
        busy = now[1] - last[1] > IDLE_CPU_S * interval_s or now[2] - last[2] > IDLE_BYTES
        if busy or now[0] != last[0] or not now[0]:
            since = time.monotonic()
        elif time.monotonic() - since >= stall_s:
            print(f"{message} (no byte for {stall_s:.0f} s)", file=sys.stderr, flush=True)
            os._exit(1)
        last = now


def _state() -> tuple[dict[str, tuple[int, int]], float, int]:
    """Return acknowledged and received bytes of each TCP connection, seconds of CPU, and bytes read from files."""
    connections = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name = str(entry.readlink())
            if not name.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED_AND_RECEIVED + 16)
                    connections[name] = struct.unpack_from("QQ", info, ACKED_AND_RECEIVED)
        except (OSError, struct.error):
            continue  # it was closed meanwhile
    counters = Path("/proc/self/io").read_text(encoding="utf-8").split()
    return connections, time.process_time(), int(counters[1])
