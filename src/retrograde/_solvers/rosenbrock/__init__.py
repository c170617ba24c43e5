"""Rosenbrock methods, for stiff problems: a page each, which is a docstring and a tableau.

``tableau`` is what a page holds and what it must satisfy, ``solver`` the one step of all methods,
``step_vjp`` its exact vjp. To add one: a page, one line in ``_solvers.PAGES``.
"""
