"""What ``python -m retrograde`` prints: ``demo`` (the default), ``compare``, ``info``.

What they need of each library stands with the adapters (``retrograde_backends.commands``), since
the core imports no array library.
"""
