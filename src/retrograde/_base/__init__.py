"""Ground: errors, types, trees, units, plain input, memory of the host; imports nothing else."""

__version__ = "0.1.0"
