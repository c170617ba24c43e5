"""``import retrograde`` in a fresh interpreter (row I1): its time, and what comes with it."""

import json
import subprocess
import sys

LIBRARIES = ("numpy", "jax", "torch", "cupy", "array_api_compat", "optree", "scipy")

_PROBE = """
import json, sys, time
start = time.process_time()
import retrograde
print(json.dumps([time.process_time() - start, sorted(sys.modules)]))
"""


def imported() -> tuple[float, list[str]]:
    """(processor time of the import, array libraries that it loads) in a fresh interpreter."""
    command = [sys.executable, "-c", _PROBE]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    seconds, modules = json.loads(out)
    return seconds, [name for name in LIBRARIES if name in modules]


def import_seconds() -> float:
    """The time; another import has compiled the bytecode before."""
    return imported()[0]


class Import:
    """The import alone (at most 0.15 s), and beside it that of the array library all have."""

    def timeraw_retrograde(self) -> str:
        return "import retrograde"

    def timeraw_numpy(self) -> str:
        return "import numpy"

    def track_array_libraries(self) -> int:
        return len(imported()[1])


Import.track_array_libraries.unit = "libraries"  # type: ignore[attr-defined]
