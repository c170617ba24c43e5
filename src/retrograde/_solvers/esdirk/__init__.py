"""Diagonally implicit Runge-Kutta methods whose first stage is explicit: a page each, a tableau.

``tableau`` is what a page holds, ``newton`` how a stage is solved, ``solver`` the one step of all
methods and its vjp. To add one: a page, one line in ``_solvers.PAGES``.
"""
