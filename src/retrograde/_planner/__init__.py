"""The planner: which adjoint, from how many bytes.

``choose`` (the plan of a solve: what is visibly asked for, then the rules), ``rules`` (which
method, and the rows of the table), ``costs`` (what each takes, and what a budget buys), ``shape``
(what costs depend on, and what a budget is charged with), ``plan`` and ``report`` (what was chosen,
and how it is shown), ``problem_size`` (the shape of a solve, from at most two calls of f),
``step_count`` and ``likeness`` (the number of adaptive steps), ``measure_vjp`` (what a vjp costs on
this machine). To add a method: its row and its rule in ``rules``, its cost in ``costs``.
"""
