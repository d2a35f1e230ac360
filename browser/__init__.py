"""Checks in a real browser, which `make test` does not need: `make browser`."""
