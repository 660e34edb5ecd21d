"""Throw-away certificates for trials and tests; what `make_certs` writes here is git-ignored."""
