"""Benchmarks of retrograde by capability; array libraries are a parameter.

``_problems`` holds what is solved with its accuracy targets, ``_backends`` how each array library
runs it, ``_peers`` how other libraries do. Everything runs on one thread: that is set here,
before any array library is loaded (OpenBLAS reads it then, and its idle threads spin).
"""

import os

_ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}

for _name, _value in _ONE_THREAD.items():
    os.environ.setdefault(_name, _value)
