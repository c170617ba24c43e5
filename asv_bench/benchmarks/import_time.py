"""``import retrograde`` in a fresh interpreter (row I1): its time, and what comes with it.

Names are loaded when they are first used, so ``retrograde.solve`` is part of what is timed.
"""

import json
import os
import subprocess
import sys
import tempfile

LIBRARIES = ("numpy", "jax", "torch", "cupy", "array_api_compat", "optree", "scipy")

_PROBE = """
import json, sys, time
start = time.process_time()
import retrograde
retrograde.solve
print(json.dumps([time.process_time() - start, sorted(sys.modules)]))
"""


def imported(bytecode: str | None = None) -> tuple[float, list[str]]:
    """(processor time of the import, array libraries that it loads) in a fresh interpreter, whose
    compiled modules are in the folder ``bytecode``."""
    env = dict(os.environ)
    if bytecode is not None:
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", _PROBE]
    out = subprocess.run(command, capture_output=True, check=True, text=True, env=env).stdout
    seconds, modules = json.loads(out)
    return seconds, [name for name in LIBRARIES if name in modules]


def import_seconds() -> float:
    """The time; another import has compiled the bytecode before, as pip does."""
    with tempfile.TemporaryDirectory() as bytecode:
        imported(bytecode)
        return imported(bytecode)[0]


class Import:
    """The import alone (at most 0.15 s), and beside it that of the array library all have."""

    def timeraw_retrograde(self) -> str:
        return "import retrograde"

    def timeraw_numpy(self) -> str:
        return "import numpy"

    def track_array_libraries(self) -> int:
        return len(imported()[1])


Import.track_array_libraries.unit = "libraries"  # type: ignore[attr-defined]
