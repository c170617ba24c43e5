"""Ground: errors, types, trees, units, plain input, memory of the host; imports nothing else."""
