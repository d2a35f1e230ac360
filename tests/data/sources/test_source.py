"""What every source shares."""

import pytest

from jax_ddpm.data.sources.source import DamagedImage, told_as_damaged
from jax_ddpm.errors import InvalidInput


@pytest.mark.parametrize(("error", "told"), [(OSError("cut off"), "cut off"), (IndexError(), "IndexError")])
def test_whatever_a_decoder_raises_is_told_with_the_name_of_the_image(error, told):
    with pytest.raises(DamagedImage, match=f"^cat.png cannot be read as an image: {told}$"), told_as_damaged("cat.png"):
        raise error


@pytest.mark.parametrize("error", [InvalidInput("said well already"), MemoryError("none left"), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_image_is_told_as_it_is(error):
    with pytest.raises(type(error)) as raised, told_as_damaged("cat.png"):
        raise error
    assert raised.value is error
