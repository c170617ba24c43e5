"""``python -m retrograde``: the command line of :mod:`retrograde._commands.main`."""

from ._commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
