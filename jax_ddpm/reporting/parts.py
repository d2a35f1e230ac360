"""What a page is made of. A page is a list of sections; what draws them knows nothing of runs."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup


class Table(NamedTuple):
    """Rows of text under a head; the first column says what a row is of.

    Attributes:
      folded: whether it is shown only when it is asked for.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    folded: bool = False


class Chart(NamedTuple):
    """A drawing, and the numbers in it."""

    svg: Markup
    caption: str
    table: Table


class Image(NamedTuple):
    """A picture within the page.

    Attributes:
      source: a data: URI.
      alt: what is to be seen.
      width, height: in its own pixels.
      scale: screen pixels that each of these is drawn as, where there is room.
    """

    source: str
    alt: str
    width: int
    height: int
    scale: int = 1
    caption: str = ""


class Slider(NamedTuple):
    """Images of which one is shown at a time.

    Attributes:
      label: what is slid along.
      values: what each place on it is called.
      start: the place shown at first.
    """

    name: str
    label: str
    values: Sequence[str]
    images: Sequence[Image]
    caption: str
    start: int = 0


class Animation(NamedTuple):
    """A picture that moves, and the one in its place that does not."""

    name: str
    moving: Image
    still: Image


class Hint(NamedTuple):
    """What is missing, and the command that would make it; "" where none would."""

    text: str
    command: str = ""


class Section(NamedTuple):
    """A part of a page with a heading; what there is of each kind, in the order in which it is shown.

    Attributes:
      name: its place in the page's address, unique in it.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    sliders: Sequence[Slider] = ()
    animations: Sequence[Animation] = ()
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    hints: Sequence[Hint] = ()
