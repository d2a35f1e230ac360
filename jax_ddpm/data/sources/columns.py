"""Which columns of a set hold its images and its classes, where a set has columns of many kinds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_ddpm.errors import InvalidInput, choose

IMAGES, LABELS = ("image", "img"), ("label",)  # what the columns are usually called


class Columns(NamedTuple):
    """The columns that are asked for, by their names; "" is the usual one, or the only one of its kind.

    Attributes:
      image: of the images.
      label: of their classes.
    """

    image: str = ""
    label: str = ""


USUAL = Columns()


def image_column(data_set: str, features: Mapping[str, Any], kind: type, asked: str = "") -> str:
    """The column of the images.

    Args:
      features: the set's columns by name, each of the type that says what is in it.
      kind: the type of a column of images.
      asked: its name, where one is asked for.
    Raises:
      InvalidInput: there is none, or there are several and none is called as is usual; the message names them.
    """
    found = _column("image", data_set, features, kind, IMAGES, asked)
    if not found:
        raise InvalidInput(f"data set {data_set!r} has no column of images: its columns are {', '.join(features)}")
    return found


def label_column(data_set: str, features: Mapping[str, Any], kind: type, asked: str = "") -> str:
    """The column of the classes, chosen as that of the images is; "" where there is none."""
    return _column("label", data_set, features, kind, LABELS, asked)


def _column(what: str, data_set: str, features: Mapping[str, Any], kind: type, usual: tuple[str, ...], asked: str) -> str:
    """The one that is asked for, or has a usual name, or is the only one of its kind; "" where there is none."""
    columns = {name: name for name, feature in features.items() if isinstance(feature, kind)}
    if asked:
        return choose(f"{what} column of {data_set}", asked, columns)
    named = [name for name in usual if name in columns] or list(columns)
    if len(named) > 1 and named[0] not in usual:
        raise InvalidInput(
            f"data set {data_set!r} has several {what} columns, {', '.join(named)}: say which one is meant by "
            f"--config.data.{what}_column={named[0]}"
        )
    return named[0] if named else ""
