"""PyTorch: solves on tensors of any device, whose gradients come by ``backward``.

``adapter`` is the object ``backend``; ``flat`` states as one tensor; ``function`` the autograd
function of a solve, ``forward_mode`` its tangents; ``captured`` tensors that f closes over, and
those that it must not change; ``field_vjp`` and ``recorded_stages`` how a field is differentiated;
``user_loops`` the public loops; ``modes``, ``random_draws``, ``distributed`` the modes of PyTorch,
what f draws, several processes; ``memory`` that of the machine.
``compiled`` holds solvers for ``compile=True``.
"""

from .adapter import backend

__all__ = ["backend"]
