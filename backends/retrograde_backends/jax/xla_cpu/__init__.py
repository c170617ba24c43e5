"""Workarounds for XLA's CPU compiler, each of which can be switched off; none is needed for a right
answer.
"""
