"""Servers and helpers that tests of several parts share; imported as `tests.support`."""
