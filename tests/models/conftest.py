"""Networks so small that compiling them is most of the work."""

from tests.compiling import pytest_runtest_protocol  # noqa: F401, compiles quickly here
