"""Differentiable loops over bodies of the user's: ``while_loop``, ``scan``, ``loop_vjp``.

Members: ``api`` (the three functions), ``arguments`` (checked), ``results`` (wrapped), ``body`` (a
loop in normal form), ``program`` (its forward and reverse, as adapters call them), ``pull`` (the
vjp of a step), ``schedule`` (what is stored).
The integration and the reversal are those of the solvers (``_checkpointing``).
"""

from .api import loop_vjp, scan, while_loop

__all__ = ["loop_vjp", "scan", "while_loop"]
