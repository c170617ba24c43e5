"""States as one flat array, for eager libraries: one operation of the library for all leaves."""
