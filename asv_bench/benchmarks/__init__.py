"""Benchmarks of retrograde by capability; array libraries are a parameter.

``_problems`` holds what is solved with its accuracy targets, ``_backends`` how each array library
runs it, ``_peers`` how other libraries do. Everything runs on one thread: that is set here,
before any array library is loaded (OpenBLAS reads it then, and its idle threads spin). XLA's
executor hands its kernels from thread to thread all the same, which doubles the time of meshes on
a busy machine, ours and the peers': so the process stays on one core, where the system lets it.

``RETROGRADE_DEVICE=cuda`` puts every array on a GPU: the rows that are measured there.
"""

import os

DEVICE = os.environ.get("RETROGRADE_DEVICE", "cpu")
"""Where arrays are: ``cpu`` or ``cuda``."""

_ONE_THREAD = {
    "JAX_PLATFORMS": "cpu" if DEVICE == "cpu" else f"{DEVICE},cpu",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}

for _name, _value in _ONE_THREAD.items():
    os.environ.setdefault(_name, _value)

if DEVICE != "cpu":  # memory as it is needed, for other processes are there, too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
elif hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[os.getpid() % len(_cores)]})
