"""Workarounds for XLA's CPU compiler: faster forms of programs whose numbers stay the same.

``eligible`` judges which programs may have them; ``kernel`` makes a whole pass one kernel, and a
field a call of its own; ``matvec`` and ``shifts_and_sums`` rewrite products, shifts and large sums;
``power`` raises to powers by tables. None of it is needed for a right answer. One flag in the
environment switches all of it off: ``RETROGRADE_XLA_CPU=0`` (so does ``RETROGRADE_GENERIC=1``,
which makes every library take its generic path); it is read when a field is traced.
"""
