"""JAX: solves that can be traced, compiled, mapped and differentiated by JAX's own means.

``adapter`` is the object ``backend``; ``primitives`` and ``loops`` what loops are made of, and time
arithmetic; ``derivatives``, ``batched_solves`` and ``transforms`` how a solve meets ``jax.grad``,
``jvp`` and ``vmap``; ``compiled_field``, ``field_vjp`` and ``scanned_stages`` how a field is run
and differentiated; ``user_loops`` the public loops; ``cache`` compiled programs; ``trees``
solutions as pytrees; ``mesh`` arrays on several devices. ``xla_cpu`` holds workarounds for XLA's
CPU compiler.
"""

from .adapter import backend

__all__ = ["backend"]
