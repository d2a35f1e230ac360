"""What the tests of equations compile is compiled quickly."""

from tests.compiling import pytest_runtest_protocol  # noqa: F401, compiles quickly here
