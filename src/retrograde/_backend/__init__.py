"""What an array library supplies, and its generic form in plain array API.

``interface`` is the one list (:class:`AbstractBackend`; its first part is ``array_hooks``),
``protocols`` what flows through it, as types, ``eager`` the generic answer to all of it
(:class:`EagerBackend`), ``stages`` and ``clock`` the state and the time arithmetic of a step,
``registry`` finds the adapter of an array, and hides public functions from compilers of Python. To
add a library: one module with an object ``backend``, one entry point.
"""
