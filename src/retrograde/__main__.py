"""``python -m retrograde``: the command line of :mod:`retrograde._cli`."""

from ._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
