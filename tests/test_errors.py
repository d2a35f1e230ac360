import pytest

from jax_ddpm.errors import InvalidInput, choose, did_you_mean

SCHEDULES = {"linear": 1, "cosine": 2, "quadratic": 3}


@pytest.mark.parametrize(
    ("given", "meant"),
    [("linaer", "linear"), ("cos", "cosine"), ("Quadratic", "quadratic"), ("linear", "linear")],
)
def test_nearest_valid_choice_is_named(given, meant):
    assert did_you_mean(given, SCHEDULES) == f" Did you mean '{meant}'?"


@pytest.mark.parametrize("given", ["xyz", "", "sigmoid_but_much_longer"])
def test_nothing_is_suggested_where_nothing_is_near(given):
    assert did_you_mean(given, SCHEDULES) == ""


def test_valid_choices_may_be_any_iterable_and_may_be_none_at_all():
    assert did_you_mean("linea", (name for name in SCHEDULES)) == " Did you mean 'linear'?"
    assert did_you_mean("linear", []) == ""


@pytest.mark.parametrize(("name", "value"), SCHEDULES.items())
def test_choose_returns_the_option_of_that_name(name, value):
    assert choose("schedule", name, SCHEDULES) == value


def test_choose_says_what_was_given_what_was_expected_and_what_is_near():
    with pytest.raises(InvalidInput) as refusal:
        choose("schedule", "cosin", SCHEDULES)
    assert str(refusal.value) == ("unknown schedule 'cosin': expected one of linear, cosine, quadratic. Did you mean 'cosine'?")


def test_choose_lists_the_options_even_where_none_is_near():
    with pytest.raises(InvalidInput) as refusal:
        choose("schedule", "xyz", SCHEDULES)
    assert str(refusal.value) == "unknown schedule 'xyz': expected one of linear, cosine, quadratic."


def test_invalid_input_is_a_value_error():
    assert issubclass(InvalidInput, ValueError)
