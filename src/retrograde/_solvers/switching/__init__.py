"""Methods that switch: every step is one of an explicit method, or of one for stiff problems.

``auto`` is the page, ``step`` its steps and their vjps, ``rule`` the decision.
"""
