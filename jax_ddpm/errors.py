"""How the project says no: what was given, what was expected, the nearest valid choice."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


class InvalidInput(ValueError):
    """Something the caller or the user gave cannot be used. The command line prints it without a traceback."""


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """A sentence that names the valid choice nearest to `given`, or "" where none is near."""
    near = difflib.get_close_matches(given, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def choose(what: str, given: str, options: Mapping[str, Choice]) -> Choice:
    """The option called `given`.

    Args:
      what: what is being chosen, for the message: "schedule".
    Raises:
      InvalidInput: there is no such option; the message lists those there are.
    """
    if given not in options:
        raise InvalidInput(f"unknown {what} {given!r}: expected one of {', '.join(options)}.{did_you_mean(given, options)}")
    return options[given]
