"""Differentiable loops over bodies of the user's: ``while_loop``, ``scan``, ``loop_vjp``.

``api`` (the three functions), ``arguments`` (checked, and results wrapped), ``loop`` (a loop in
normal form), ``loop_program`` (its forward and reverse, as adapters call them), ``body_vjp`` (the
vjp of a step), ``checkpoints`` (what is stored). The loop forward and the reversal are those of
the solvers (``_checkpointing``).
"""

from .api import loop_vjp, scan, while_loop

__all__ = ["loop_vjp", "scan", "while_loop"]
