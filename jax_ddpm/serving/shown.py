"""A chain as the page shows it: pictures and what is said of them, as HTML that escapes whatever comes from a run."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jax_ddpm.pictures import SHOWN_SIZE, filmstrip, grid
from jax_ddpm.reporting.embedded import data_uri, scale_of
from jax_ddpm.reporting.page import templates
from jax_ddpm.reporting.parts import Image
from jax_ddpm.serving.painter import Seen
from jax_ddpm.serving.telling import Told

CHAINS, ACROSS = 4, 8  # of the filmstrip: how many chains it shows, and how many states of each

_TEMPLATES = templates("jax_ddpm.serving", "assets")


def result(seen: Seen, told: Told, way: Sequence[np.ndarray] = ()) -> Markup:
    """The chain as it stands; at its end the images, how they came about, and their way.

    Args:
      way: the states [N, H, W, C] uint8 of the chain, from noise to images, when it has ended.
    """
    ended, of = seen.done == seen.total, f"after {seen.done:,} of {seen.total:,} evaluations"
    if ended:
        pictures = [_picture(seen.xt, "the images drawn", "Images")]
        kept = [way[number] for number in np.unique(np.linspace(0, len(way) - 1, ACROSS).round().astype(int))]
        strip = filmstrip(np.stack(kept)[:, :CHAINS])
        pictures.append(
            _sized(strip, seen.xt.shape[1], "the chain, from noise on the left to the image", "Their way from noise")
        )
    else:
        pictures = [
            _picture(seen.xt, f"the state of the chain {of}", f"x_t {of}"),
            _picture(
                seen.x0, f"what the network took the state before for, {of}", "What the network took the state before for"
            ),
        ]
    return Markup(
        _TEMPLATES.get_template("result.html").render(
            pictures=pictures, done=seen.done, total=seen.total, ended=ended, told=told
        )
    )


def heading(title: str, text: str) -> Markup:
    """What the page is of; a folder may have any name."""
    return Markup("<h1>{}</h1><p>{}</p>").format(title, text)


def message(text: str, *, wrong: bool = True) -> Markup:
    """A line that says what is wrong, or what is being done."""
    return Markup(_TEMPLATES.get_template("message.html").render(text=text, wrong=wrong))


def _picture(images: np.ndarray, alt: str, caption: str) -> Image:
    return _sized(grid(images), images.shape[1], alt, caption)


def _sized(pixels: np.ndarray, image_size: int, alt: str, caption: str) -> Image:
    """Small images are enlarged by the browser."""
    height, width = pixels.shape[:2]
    scale = max(scale_of(image_size), SHOWN_SIZE * 4 // max(width, height))
    return Image(data_uri([pixels], smallest=False), alt, width, height, scale, caption)
