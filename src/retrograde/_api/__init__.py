"""What users call: ``solve``, ``solve_vjp``, ``plan``: arguments in, solution out.

``solve`` is the front door; ``arguments`` checks and prepares what came; ``plan`` follows a plan;
``solve_program`` is a solve whose gradient can be taken, and its pullback.
"""
