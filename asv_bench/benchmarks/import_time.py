"""Time of ``import retrograde`` in a fresh interpreter (row I1: below 0.15 s)."""


class Import:
    """The import alone, and beside it that of the one array library everybody has."""

    def timeraw_retrograde(self) -> str:
        return "import retrograde"

    def timeraw_numpy(self) -> str:
        return "import numpy"
