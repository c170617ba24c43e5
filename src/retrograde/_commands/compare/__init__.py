"""The comparison: memory, time and error of gradient methods on this machine, peers included.

Members: ``problem`` (what is solved, and its gradient by plain Python), ``rows`` (our methods, and
what a row is), ``measure`` (one problem on every library: bytes, errors, interleaved timing),
``session`` (the command), ``table`` (text and JSON), ``plot`` (the picture). How each library runs
a method, and which peers it has, stands beside the adapters: ``commands.peers_arrays``,
``commands.peers_jax`` and ``commands.peers_torch`` of ``retrograde_backends``. To add a method of
ours: a line in ``rows``; a peer: a function there, which the benchmarks call, too.
"""
