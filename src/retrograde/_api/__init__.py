"""What users call: ``solve``, ``solve_vjp``, ``plan``: arguments in, solution out.

``solve`` is the front door; ``options`` are the keywords of all three, ``arguments`` checks and
prepares what came (``mixed_dtypes``: states of several dtypes), ``solve_program`` is a solve whose
gradient can be taken, and its pullback; ``per_sample`` solves batches whose samples have steps of
their own, ``steady_state`` seeks where one comes to rest. To add a keyword: its type and its
default in ``options``, its paragraph in the docstring of ``solve``.
"""
