"""What may be asked for, and what settings it comes to."""

import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import SAMPLERS
from jax_ddpm.serving.asked import HIGHEST_SEED, IN_TURN, NO_CLASS, Asked, Limits, checked, first_asked, limits_of, settled
from tests.test_generation import tiny

LIMITS = Limits(classes=("cat", "dog"), steps=8, images=4, guided=True, forgets=True)
PLAIN = Limits(classes=(), steps=8, images=4, guided=False, forgets=False)
ASKED = Asked("ddim", 5, 3, 7, 1, 2.5, 4)


@pytest.mark.parametrize(
    ("model", "guidance", "expected"),
    [
        ({"label_dropout": 0.1}, {}, (10, True, True)),
        ({"label_dropout": 0.0}, {}, (10, False, False)),
        ({"class_conditional": False, "label_dropout": 0.0}, {}, (0, False, False)),
        ({"class_conditional": False, "label_dropout": 0.0}, {"classifier": "x"}, (10, True, False)),
        ({"label_dropout": 0.1}, {"classifier": "x"}, (10, True, False)),
    ],
)
def test_a_run_is_asked_for_what_it_can_do(model, guidance, expected):
    limits = limits_of(tiny(model=model, guidance=guidance, serve={"images": 5}))
    assert (len(limits.classes), limits.guided, limits.forgets) == expected
    assert (limits.steps, limits.images) == (8, 5)


def test_whole_numbers_are_taken_as_a_browser_sends_them():
    assert checked(LIMITS, Asked("ddim", 5.0, 3.0, 7.0, 1.0, 2.5, 4.0)) == ASKED
    found = checked(LIMITS, Asked("ddim", 5.0, 3.0, 7.0, 1.0, 2.5, 4.0))
    assert [type(each) for each in found] == [str, int, int, int, int, float, int]


@pytest.mark.parametrize("value", [0, 21, -1, 1.5, None, "5", True, float("nan"), float("inf"), [5], 10**400])
@pytest.mark.parametrize(("name", "range_"), [("steps", "1 to 8"), ("images", "1 to 4"), ("resamples", "1 to 20")])
def test_a_number_out_of_range_or_none_at_all_is_refused(name, range_, value):
    with pytest.raises(InvalidInput, match=f"^{name} .*: expected a whole number from {range_}"):
        checked(LIMITS, ASKED._replace(**{name: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "ddmi"}, "Did you mean 'ddim'"),
        ({"sampler": None}, "unknown sampler 'None'"),
        ({"seed": -1}, f"seed -1: expected a whole number from 0 to {HIGHEST_SEED}"),
        ({"seed": HIGHEST_SEED + 1}, "seed 2147483648"),
        ({"label": 2}, "class 2: expected a whole number from -2 to 1"),
        ({"label": -3}, "class -3"),
        ({"scale": -0.5}, "guidance scale -0.5: expected a number from 0 to 20"),
        ({"scale": 20.5}, "guidance scale 20.5"),
        ({"scale": float("nan")}, "guidance scale nan"),
        ({"scale": 10**400}, "guidance scale 1000"),
        ({"scale": "2"}, "guidance scale '2'"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        checked(LIMITS, ASKED._replace(**change))


@pytest.mark.parametrize(
    ("limits", "change", "message"),
    [
        (PLAIN, {"scale": 2.0, "label": IN_TURN}, "this network cannot be guided. Expected 1"),
        (PLAIN, {"scale": 1, "label": 0}, "this network knows no classes"),
        (LIMITS._replace(forgets=False), {"label": NO_CLASS}, "class -2: expected a whole number from -1 to 1"),
    ],
)
def test_a_network_is_not_asked_for_what_it_does_not_know(limits, change, message):
    with pytest.raises(InvalidInput, match=message):
        checked(limits, ASKED._replace(**change))
    assert checked(PLAIN, ASKED._replace(scale=1, label=IN_TURN)).label == IN_TURN


def test_what_is_asked_for_becomes_settings():
    config = settled(tiny(sampler={"name": "ddim", "eta": 0.5, "clip": "none"}), ASKED)
    assert (config.sampler.name, config.sampler.steps, config.sampler.eta, config.sampler.clip) == ("ddim", 5, 0.5, "none")
    assert (config.sample.count, config.sample.seed, tuple(config.sample.labels), config.sample.batch_size) == (3, 7, (1,), 4)
    assert (config.guidance.scale, config.edit.resamples, config.edit.seed) == (2.5, 4, 7)
    many = settled(tiny(), ASKED._replace(images=9, label=IN_TURN))
    assert (many.sample.batch_size, tuple(many.sample.labels)) == (9, ())


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_has_not_the_settings_of_the_one_before(name):
    before = tiny(sampler={"name": "ddim", "eta": 0.5})
    config = settled(before, ASKED._replace(sampler=name))
    assert (config.sampler.eta, config.sampler.name) == (0.5 if name == "ddim" else 0.0, name)
    assert before.sampler.name == "ddim"


def test_the_page_begins_with_what_the_settings_say():
    long = tiny(diffusion={"steps": 1000}, sample={"seed": 5}, model={"label_dropout": 0.1}, guidance={"scale": 3.0})
    assert first_asked(long)[:6] == ("ddim", 50, 10, 5, IN_TURN, 3.0)
    assert first_asked(tiny(sample={"labels": (3,)})).label == 3
    assert first_asked(tiny(sample={"labels": (3, 4)})).label == IN_TURN
    assert first_asked(tiny())[:2] == ("ddim", 8)
    assert first_asked(tiny(sampler={"name": "heun"}))[:2] == ("heun", 8)
    assert first_asked(tiny(sampler={"steps": 3}))[:2] == ("ancestral", 3)
    assert first_asked(tiny(serve={"images": 2})).images == 2
