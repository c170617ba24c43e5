"""Explicit Runge-Kutta methods: a page each, which is a docstring and a tableau.

``tableau`` is what a page holds, ``order_conditions`` what a tableau must satisfy, ``solver``
the one step of all methods and its vjp. To add one: a page, one line in
``_solvers.PAGES``.
"""
