"""The stages, and what they share.

Libraries keep settings and caches in the user's home. Without a home, as for a container's user without a name, DVC,
TAO and PyTorch end with a traceback, so such a process gets a temporary home. If the home can't be written to,
Matplotlib warns, so such a process gets a temporary folder for caches only.
"""

import atexit
import getpass
import os
import shutil
import tempfile
from pathlib import Path


def _provide_home() -> None:
    try:
        writable = os.access(Path.home(), os.W_OK)
        missing = [name for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR") if not writable and name not in os.environ]
    except RuntimeError:
        missing = ["HOME"]
    if missing:
        folder = tempfile.mkdtemp(prefix="home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ.update(dict.fromkeys(missing, folder))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        # DVC and PyTorch name folders after the user.
        os.environ["USER"] = str(os.getuid())


_provide_home()
