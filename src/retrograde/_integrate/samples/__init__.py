"""Batches whose samples have steps of their own, in eager libraries.

``problem`` is f of a batch, ``loop`` a solve that is ready to run, ``run`` one pass of it; ``rows``
and ``record`` are what samples leave behind, ``constant_steps`` tries of a given size, ``host`` the
loop in the arithmetic of another library, ``dense`` its dense output.
"""
