"""Solvers for ``compile=True``: a whole stretch of steps as one program of TorchInductor."""
