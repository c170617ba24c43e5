"""The calls are read by type checkers and never run."""

collect_ignore = ["right_calls.py", "wrong_calls.py"]
