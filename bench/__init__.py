"""Measurements with real processes: `make load`, `make bench`. Each prints the machine and the versions with its figures."""
