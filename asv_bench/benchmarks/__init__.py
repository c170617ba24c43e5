"""Benchmarks of retrograde by capability; array libraries are a parameter.

``_problems`` holds what is solved with its accuracy targets, ``_backends`` how each array library
runs it, ``_peers`` how other libraries do. Everything runs on one thread and keeps the memory
that it frees: both are set here, before any array library is loaded.
"""

import ctypes
import os
import sys

_ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}

for _name, _value in _ONE_THREAD.items():
    os.environ.setdefault(_name, _value)

if sys.platform == "linux":  # else arrays of some 100 kB may cost page faults, 10 times their work
    _mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    for _parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        _mallopt and _mallopt(_parameter, 2**30)
