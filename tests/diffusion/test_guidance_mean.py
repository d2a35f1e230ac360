"""The mean moved by a classifier: how far it moves each state of a chain is a recursion that can be written down."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import ancestral, guided_mean, linear_schedule, sample_trajectory
from tests.compiling import in_float64_for_each
from tests.diffusion.guided import AWAY, CHAIN, KEY, RARE, SCHEDULE64, SPREAD, assert_close, batch, guided_and_not, steepness
from tests.references.chain import Chain
from tests.references.denoisers import small_network


def affine_step(chain, t):
    """The slope [2] of the mean of p(x_{t-1} | x_t) in x_t with RARE's denoiser."""
    when, share = np.array([t]), chain.alphas_bar[t]
    of_x0, of_xt = (chain.posterior(*map(np.array, pair), when)[0].item() for pair in ([[1.0], [0.0]], [[0.0], [1.0]]))
    return of_xt + of_x0 * np.sqrt(share) * SPREAD / (share * SPREAD + chain.noise_variance[t])


def moves(chain, variance, scale):
    """[T, 2] how far guidance has moved each state from the unguided one under the same noise: d ← slope d + s σ² ∇."""
    moved, states = np.zeros(2), []
    for t in reversed(range(chain.steps)):
        spread = chain.reverse_variance(np.array([t]), np.zeros(1), variance).item()
        moved = affine_step(chain, t) * moved + scale * spread * steepness(chain, t)
        states.append(moved)
    return np.stack(states)


@pytest.mark.parametrize(("variance", "prediction"), [("fixed_large", "eps"), ("fixed_small", "v"), ("fixed_large", "mean")])
def test_guided_mean_moves_every_state_of_the_ancestral_chain_as_the_recursion_says(variance, prediction):
    """μ + s σ² ∇: the first state by that alone, and what follows by it and by what came before, to the last step."""
    x, scale = batch(1, 10)[0], 2.5
    sampler = ancestral(SCHEDULE64, prediction=prediction, variance=variance, clip=None)
    guided, unguided = guided_and_not(sampler, CHAIN, x, scale, range(1, 13))
    expected = moves(CHAIN, variance, scale)
    assert_close(guided - unguided, np.broadcast_to(expected[:, None], guided.shape))
    assert np.abs(expected[-1] - affine_step(CHAIN, 0) * expected[-2]).max() > 1e-4  # there is a move at the last step too


def test_guided_mean_moves_the_samples_w_times_as_far_the_nearer_the_more_steps():
    counts, scale, errors = (10, 100), 2.5, []
    for steps in counts:
        schedule = linear_schedule(steps, dtype=np.float64)
        chain = Chain(np.asarray(schedule.betas))
        guided, unguided = guided_and_not(ancestral(schedule, clip=None), chain, batch(1, 4)[0], scale, [steps])
        assert_close((guided - unguided)[0], np.broadcast_to(moves(chain, "fixed_large", scale)[-1], (4, 2)))
        errors.append(np.abs((guided - unguided)[0, 0] - scale * AWAY).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.3 < slope < -0.7  # of first order in the step; it was -1.0 to -.9
    assert errors[-1] < 0.05


def test_guided_mean_is_moved_by_the_variance_that_the_network_says():
    x, network = batch(1, 6)[0], small_network(jnp, 2, 4)
    sampler = ancestral(SCHEDULE64, variance="learned", clip=None)

    def stepped(x, scale):
        guided = guided_mean(sampler, RARE.classifier(CHAIN), np.ones(6, int), scale=scale)
        return sample_trajectory(guided, network, x, KEY, [1])[1][0]

    guided, unguided = in_float64_for_each(stepped, (x, 1.5), (x, 0.0))
    log_variance = small_network(np, 2, 4)(x, np.full(6, 11))[:, 2:]
    assert_close(guided - unguided, 1.5 * np.exp(log_variance) * steepness(CHAIN, np.full(6, 11)))
