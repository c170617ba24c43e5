"""One solve: the problem, the loop over its steps, what it hands back.

``problem`` is what is solved, ``integrator`` the one loop over tries of a step, ``saveat``
the rows on the way, ``solution`` the result, ``relative_time`` how times are counted,
``per_sample`` the solve of a batch whose samples have steps of their own, ``progress`` bars.
Gradient methods receive the integrator as an argument and never import it.
"""
