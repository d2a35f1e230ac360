"""Which metrics can be asked of which network."""

import pytest

from configs import digits, digits_classifier
from jax_ddpm.errors import InvalidInput
from jax_ddpm.metrics import chosen_metrics
from tests.test_experiment import settings_of


@pytest.mark.parametrize(
    ("module", "metric", "message"),
    [
        (digits_classifier, "bits_per_dim", "eval.metrics=bits_per_dim: a classifier says nothing of how likely images are"),
        (
            digits,
            "accuracy",
            r"eval.metrics=accuracy is of a classifier, and model.network=unet\. Expected one of bits_per_dim,",
        ),
    ],
)
def test_metrics_are_of_one_kind_of_network(module, metric, message):
    config = settings_of(module)
    config.eval.metrics = (metric,)
    with pytest.raises(InvalidInput, match=message):
        chosen_metrics(config)
