"""What an array library supplies, and its generic form in plain array API.

Each hook stands once, with its generic form: in ``array_hooks``, ``gradient_hooks`` and
``iteration_hooks``, which ``interface`` joins (:class:`AbstractBackend`, :class:`EagerBackend`).
``protocols`` has what flows through them, as types, ``stages`` and ``clock`` the state and the time
arithmetic of a step, ``storage`` rows and tables, ``specialise`` the door to fast forms;
``registry`` finds the adapter of an array, and hides public functions from compilers of Python. To
add a library: one module with an object ``backend``, one entry point.
"""
