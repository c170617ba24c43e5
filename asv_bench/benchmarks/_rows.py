"""All rows of the report: what is timed, what is exact, and what can't be run here."""

from __future__ import annotations

from collections.abc import Iterator

from ._cases import Skipped
from ._facts import FACTS
from ._rows_batches import batch_rows
from ._rows_dense import dense_rows
from ._rows_device import DEVICE_ROWS
from ._rows_eager import EAGER
from ._rows_events import event_rows
from ._rows_jax import FLAGGED, JAX
from ._rows_meshes import mesh_rows
from ._rows_samples import sample_rows
from ._rows_stiff import stiff_cases

__all__ = ["DEVICE_ROWS", "FACTS", "FLAGGED", "ROWS"]


def elsewhere() -> Iterator[Skipped]:
    """Rows that are no part of a run on a CPU."""
    yield Skipped("D1", "on a GPU", "`.ci/gpu` measures it, where a GPU is")
    elsewhere = "tests measure its other budgets on every backend; slow"
    yield Skipped("M1p", "budgets from 2^-6 to 2^6 of the states", elsewhere)


ROWS = (*JAX, batch_rows, sample_rows, *EAGER, event_rows, dense_rows, stiff_cases, mesh_rows,
        elsewhere)  # fmt: skip
