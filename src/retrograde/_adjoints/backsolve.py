"""BacksolveAdjoint: steps taken back in place of states stored.

Discrete mode inverts the forward step (a step of -h, then corrections) and takes the exact vjp
of the forward step at the state that it finds, under guard.
"""

from __future__ import annotations

from dataclasses import dataclass

from .inverting import InvertingAdjoint

__all__ = ["BacksolveAdjoint"]


@dataclass(frozen=True)
class BacksolveAdjoint(InvertingAdjoint):
    """Take steps back under guard; replay what the guard refuses."""
