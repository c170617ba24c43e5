"""Methods whose step can be undone: a page each, straight-line programs of linear combinations.

``solver`` runs a program, its inverse and its vjp; ``straight_line`` is what programs are made of.
To add one: a page with its step, its inverse and its start, one line in ``_solvers.PAGES``. Of a
splitting of separable systems the page has weights alone (``kicks_and_drifts``).
"""
