"""What `python3 kit_ID` runs: `make kit` copies this file to the kit's __main__.py.

It says in one line what the machine lacks, before it imports code that needs it. So it must be read by any Python 3.
"""

import importlib
import sys

PACKAGES = {"numpy": "NumPy", "cv2": "OpenCV"}

if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit("Python 3.10 or newer is needed, found {}.{} ({})".format(*sys.version_info[:2], sys.executable))
    for module, name in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            sys.exit(
                f"{name} can't be imported by {sys.executable} ({error}); install it: python3 -m pip install numpy "
                "opencv-python-headless, or on a Jetson: sudo apt install python3-numpy python3-opencv"
            )

    from stages.commands import board
    from stages.foundation import command_line

    command_line.run(board.main)
