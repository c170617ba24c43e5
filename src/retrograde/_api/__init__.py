"""What users call: ``solve``, ``solve_vjp``, ``plan``: arguments in, solution out.

``solve`` is the front door; ``arguments`` checks and prepares what came; ``solve_program``
is a solve whose gradient can be taken, its plan and its pullback.
"""
