"""Where points come to lie in a drawing, and that its colours can be told from the ground."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import jax_ddpm.reporting
from jax_ddpm.reporting.curves import Axis, Bar, Series, error_bars, lines, number

CSS = (Path(jax_ddpm.reporting.__file__).parent / "page/page.css").read_text()


def points(svg):
    (path,) = (each for each in ElementTree.fromstring(svg) if each.get("class", "").startswith("line"))
    return np.array([each.split() for each in re.split("[ML]", path.get("d"))[1:]], float)


def ticks(svg, anchor):
    """The numbers at the ticks of an axis and the pixels where they stand."""
    found = [each for each in ElementTree.fromstring(svg) if each.get("text-anchor") == anchor and not each.get("class")]
    return [(each.text, float(each.get("x" if anchor == "middle" else "y"))) for each in found]


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_the_ticks_say(log):
    x = [1.0, 3.0, 40.0, 100.0]
    svg = lines("c", "title", [Series("a", x, x)], Axis("x", log), Axis("y", log))
    for anchor, column, offset in (("middle", 0, 0), ("end", 1, 4)):
        said = ticks(svg, anchor)
        assert 2 <= len(said) <= 9
        (low, first), (high, last) = [(float(text.replace(",", "")), place - offset) for text, place in (said[0], said[-1])]
        move = np.log10 if log else np.asarray
        expected = first + (move(x) - move(low)) / (move(high) - move(low)) * (last - first)
        np.testing.assert_allclose(points(svg)[:, column], expected, atol=0.2)


@pytest.mark.parametrize(
    ("values", "log"),
    [([5.0, 5.0], False), ([5.0], True), ([0.0], False), ([1e-7, 3e4], True), ([0.101, 0.102], True), ([-3.0, 9e6], False)],
)
def test_any_numbers_can_be_drawn(values, log):
    svg = lines("c", "t", [Series("a", values, values)], Axis("x", log), Axis("y", log))
    found = points(svg)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 460)).all()
    places = [place for _, place in ticks(svg, "middle")]
    assert len(places) >= 2
    assert all(later > earlier for earlier, later in pairwise(places))


def test_what_has_no_place_on_the_axes_is_left_out():
    svg = lines("c", "t", [Series("a", [0, 1, 2, 3], [1, float("nan"), 2, 3])], Axis("x", log=True), Axis("y"))
    assert len(points(svg)) == 2
    assert not lines("c", "t", [Series("a", [0], [1])], Axis("x", log=True), Axis("y"))


def test_error_bars_reach_one_error_to_either_side():
    svg = error_bars("c", "t", [Bar("a", 3.0, 0.5), Bar("b", 4.0, None)], "bits/dim")
    drawn = ElementTree.fromstring(svg)
    dots = [float(each.get("cx")) for each in drawn if each.tag == "circle"]
    bars = [re.match(r"M([\d.]+) [\d.]+H([\d.]+)", each.get("d")) for each in drawn if each.get("class", "").startswith("line")]
    (low, high), (same, again) = [(float(bar[1]), float(bar[2])) for bar in bars]
    assert dots[0] == pytest.approx((low + high) / 2, abs=0.1)
    assert (high - low) == pytest.approx(dots[1] - dots[0], abs=0.2)  # 2 · 0.5, as far as from 3 to 4
    assert same == again == dots[1]
    assert drawn[1].text == "a: 3 ± 0.5. b: 4."
    texts = [float(each.get("x")) for each in drawn if each.get("class") == "said"]
    assert max(dots[1], high) + 8 < min(texts) - 90  # what is said in 13 letters has room beside the bars


def test_numbers_are_written_with_six_digits():
    assert [number(value) for value in (12, 1234.0, 0.1234567, 1e-9, 300000)] == ["12", "1,234", "0.123457", "1e-09", "300,000"]
    assert number(float("nan")) == "nan"


def luminance(colour):
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """WCAG 2.2."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_letters_and_lines_stand_out_in_light_in_dark_and_on_paper(mode):
    colours = dict(re.findall(r"--([\w]+): (#\w+)", re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[mode]))
    colours = {
        name: value if len(value) == 7 else "#" + "".join(2 * each for each in value[1:]) for name, value in colours.items()
    }
    for ground in {"ground", "raised"} & colours.keys():
        assert all(contrast(colours[name], colours[ground]) >= 4.5 for name in ("ink", "faint", "link"))
    assert all(contrast(colours[f"c{number}"], colours["ground"]) >= 3 for number in range(6))
