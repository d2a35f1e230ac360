"""The chain as HTML."""

import base64
import io
import re

import numpy as np
from PIL import Image

from jax_ddpm.pictures import filmstrip, grid
from jax_ddpm.serving.painter import Seen
from jax_ddpm.serving.shown import heading, message, result
from jax_ddpm.serving.telling import Told

RANDOM = np.random.default_rng(0)
WAY = list(RANDOM.integers(0, 256, (21, 6, 8, 8, 1), np.uint8))
TOLD = Told((("weights", "a <b> & 'c'"),), "python run.py --workdir '<script>'")


def pictures(html):
    """Every picture, with what is said of it."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', html)
    return [(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), alt) for data, alt in found]


def test_on_its_way_there_are_the_state_and_what_the_network_takes_it_for():
    html = result(Seen(5, 20, WAY[0], WAY[1]), TOLD)
    (state, said), (estimate, _) = pictures(html)
    np.testing.assert_array_equal(state, grid(WAY[0])[..., 0])
    np.testing.assert_array_equal(estimate, grid(WAY[1])[..., 0])
    assert said == "the state of the chain after 5 of 20 evaluations"
    assert '<progress max="20" value="5"' in html
    assert "run.py" not in html


def test_at_its_end_there_are_the_images_their_way_and_the_command():
    html = result(Seen(20, 20, WAY[-1], WAY[-1]), TOLD, WAY)
    (images, _), (strip, _) = pictures(html)
    np.testing.assert_array_equal(images, grid(WAY[-1])[..., 0])
    np.testing.assert_array_equal(strip, filmstrip(np.stack([WAY[n] for n in (0, 3, 6, 9, 11, 14, 17, 20)])[:, :4])[..., 0])
    assert "run.py" in html


def test_the_files_that_the_command_needs_can_be_kept():
    named = (("picture.png", "data:image/png;base64,AA"), ("mask.png", "data:image/png;base64,BB"))
    html = result(Seen(20, 20, WAY[-1], WAY[-1]), TOLD._replace(files=named), WAY)
    assert re.findall(r'<a href="([^"]*)" download="([^"]*)">', html) == [(source, name) for name, source in named]
    assert "The first image, by the command line" in html
    assert "download" not in result(Seen(5, 20, WAY[0], WAY[1]), TOLD._replace(files=named))


def test_nothing_of_a_run_is_taken_for_html():
    html = result(Seen(20, 20, WAY[-1], WAY[-1]), TOLD, WAY)
    assert "<script>" not in html
    assert "a &lt;b&gt; &amp; &#39;c&#39;" in html
    assert "<b>" not in message("<b>")
    assert heading("<b>", "`&`") == "<h1>&lt;b&gt;</h1><p>`&amp;`</p>"
    assert 'role="alert"' in message("x")
    assert 'role="status"' in message("x", wrong=False)
