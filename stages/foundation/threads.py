"""Lets the threads of PyTorch's operators sleep soon after an operator.

By default they spin at the end of each operator, for the next one. Where another process needs the core, that takes
most of its time: benchmarks/openmp.py measures it, docs/benchmarks.md has the figures.
"""

import os

_SPIN = {
    # libgomp, which PyTorch's wheels for Linux have: how often a thread looks before it sleeps. 300,000 by default
    # where there are no more threads than cores. https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    "GOMP_SPINCOUNT": "1000",
    # LLVM's and Intel's libomp, in ms; 200 by default. https://openmp.llvm.org/design/Runtimes.html#kmp-blocktime
    "KMP_BLOCKTIME": "0",
}


def sleep_soon() -> None:
    """Set the variables that OpenMP reads when PyTorch is loaded, for this process and those that it starts.

    Values that the user has set stay, as does all where OMP_WAIT_POLICY is set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in _SPIN.items():
            os.environ.setdefault(name, value)
