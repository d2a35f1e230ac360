"""The two sides: a sampler of ours and a scheduler of diffusers', run on one network from the same x_T with the same noise.

Ours is run whole, by `sample_trajectory` in float64, and every state that it passes is compared. Theirs is run twice:

- as it is installed, its tables float32: each of its steps starts from our state and may lead 1e-5 away from our next one,
  which is what the rounding of such tables comes to; where it comes to more, the test says why;
- with its float32 made float64, by handing its module a `torch` and a `numpy` in which the one is the other: it runs freely
  from x_T to the end. Only the roundings of float64 are left, so no term can be wrong that those of float32 would hide.
"""

import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jax_ddpm import NoiseSchedule, Sampler, cosine_schedule, linear_schedule, sample_trajectory, schedule_from_betas

SHAPE = (3, 4, 4, 2)
KEY = jax.random.key(5)
THEIR_NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

# The betas are rounded to float32, so that both sides start from the same numbers.
SCHEDULES: dict[str, NoiseSchedule] = {
    name: schedule_from_betas(make(1000).betas, np.float64)
    for name, make in {"linear": linear_schedule, "cosine": cosine_schedule}.items()
}


@dataclasses.dataclass(frozen=True)
class Theirs:
    """One of their schedulers, set up for so many steps of the chain of that name."""

    kind: type
    steps: int
    schedule: str = "linear"
    prediction: str = "eps"
    config: dict = dataclasses.field(default_factory=dict)

    def make(self):
        betas = SCHEDULES[self.schedule].betas
        said = THEIR_NAMES[self.prediction]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # np.array(tensor) with NumPy 2
            scheduler = self.kind(num_train_timesteps=len(betas), trained_betas=betas, prediction_type=said, **self.config)
            scheduler.set_timesteps(self.steps)
        if hasattr(scheduler, "set_begin_index"):  # or it looks for the first time, and takes the second where they are two
            scheduler.set_begin_index(0)
        return scheduler

    @functools.cached_property
    def times(self) -> np.ndarray:
        """What `make` visits, as `spacing` takes it: whole and increasing."""
        times = np.unique(self.make().timesteps.numpy())
        whole = times.astype(np.int64)
        assert np.array_equal(whole, times)
        return whole

    def patched(self, **names) -> contextlib.AbstractContextManager:
        """Within this, their module sees other things under these names."""
        return mock.patch.multiple(sys.modules[self.kind.__module__], create=True, **names)


class _Float64:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self._module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self._module, name)


def network(xp, schedule: NoiseSchedule, prediction: str, outputs: int) -> Callable:
    """A fixed nonlinear network (x [B, H, W, 2], t [B]) -> [B, H, W, outputs], the same numbers in NumPy and in JAX.

    Its v lies within ±1.5, so that neither x_0 nor ε is large at any level, as with a network that was trained; it says it as
    `prediction`. What it says of the variance, if anything, lies within ±1.5.
    """
    channels = SHAPE[-1]
    shapes = [(channels, outputs), (outputs,), (outputs,)]
    weights, pace, bias = (np.random.default_rng(seed).normal(size=shape) for seed, shape in enumerate(shapes))
    levels = np.log(1 / np.cumprod(1 - schedule.betas) - 1) / 2  # log σ

    def output(x, t):
        t = xp.asarray(t, x.dtype).reshape(-1, 1, 1, 1)
        said = 1.5 * xp.tanh(x @ xp.asarray(weights) + xp.sin(t / 50 * xp.asarray(pace)) + xp.asarray(bias))
        v, values = said[..., :channels], said[..., channels:]
        level = xp.interp(t, xp.arange(len(levels)), xp.asarray(levels))
        signal, noise = (1 / xp.sqrt(1 + xp.exp(sign * 2 * level)) for sign in (1, -1))
        means = {"eps": signal * v + noise * x, "x0": signal * x - noise * v, "v": v}
        return xp.concatenate([means[prediction], values], axis=-1)

    return output


def assert_same_states(sampler: Sampler, theirs: Theirs, *, installed: float = 1e-5, float64: float = 1e-11, **how) -> None:
    """Both sides pass the same states, theirs as installed and theirs in float64 within these tolerances; see `differences`."""
    for (way, found), tolerance in zip(differences(sampler, theirs, **how).items(), (installed, float64), strict=True):
        for step, error in enumerate(found):
            assert error <= tolerance, f"{way}: step {step} of {len(found)} leads {error:.1e} away, more than {tolerance:.0e}"


def differences(
    sampler: Sampler,
    theirs: Theirs,
    *,
    scaled: bool = False,
    outputs: int = SHAPE[-1],
    told: Callable = lambda t: t,
    **options,
) -> dict[str, list[float]]:
    """By how much the states differ after each step, relative to the larger of 1 and the largest number of the state.

    Args:
      scaled: whether their state is x/√ᾱ.
      outputs: the channels of the network's output.
      told: what is done to the time that our network is told.
      options: of their `step`.
    """
    means = (SCHEDULES[theirs.schedule], theirs.prediction, outputs)
    ours, noises = _our_states(sampler, network(jnp, *means), told)
    roots = np.sqrt(np.append(sampler.start, sampler.reached)) if scaled else np.ones(len(ours))
    scaled_ours = ours / roots.reshape(-1, 1, 1, 1, 1)
    found = {}
    for free in (False, True):
        with theirs.patched(torch=_Float64(torch), np=_Float64(np)) if free else contextlib.nullcontext():
            states = list(_their_states(theirs, network(np, *means), scaled_ours, noises, free, options))
        found["in float64" if free else "as installed"] = [
            np.abs(our - root * their).max() / max(1, np.abs(our).max())
            for our, root, their in zip(ours[1:], roots[1:], states, strict=True)
        ]
    return found


def _our_states(sampler: Sampler, denoiser: Callable, told: Callable) -> tuple[np.ndarray, np.ndarray]:
    """[N+1, *SHAPE] x_T and every state after it; [N, *SHAPE] the noise of each step, 0 where none is added."""
    total = sampler.evaluations
    with jax.enable_x64(True):
        x_T = jax.random.normal(jax.random.key(1), SHAPE, jnp.float64)
        run = jax.jit(lambda x: sample_trajectory(sampler, lambda x, t: denoiser(x, told(t)), x, KEY, range(total + 1)))
        keys = jax.vmap(lambda n: jax.random.split(jax.random.fold_in(KEY, n))[0])(jnp.arange(total))
        noises = jax.vmap(lambda key: jax.random.normal(key, SHAPE, jnp.float64))(keys)
        ours = np.asarray(run(x_T)[1])
    assert ours.dtype == np.float64
    assert np.abs(ours).max() < 20  # so that the tolerances are those of numbers near 1
    return ours, np.asarray(noises) * sampler.noisy.reshape(-1, 1, 1, 1, 1)


def _their_states(
    theirs: Theirs, denoiser: Callable, ours: np.ndarray, noises: np.ndarray, free: bool, options: dict
) -> Iterator[np.ndarray]:
    """What each of their steps makes of the state of ours before it, or where `free` of its own."""
    scheduler = theirs.make()
    sample = _channels_first(ours[0])
    for t, start, noise in zip(scheduler.timesteps, ours[:-1], noises, strict=True):
        sample = sample if free else _channels_first(start)
        shown = _channels_last(scheduler.scale_model_input(sample, t))
        output = _channels_first(denoiser(shown, np.full(len(shown), float(t))))
        drawn = _channels_first(noise)
        with theirs.patched(randn_tensor=lambda *_, drawn=drawn, **__: drawn):
            sample = scheduler.step(output, t, sample, **options).prev_sample
        yield _channels_last(sample)


def _channels_first(x: np.ndarray) -> torch.Tensor:
    """Pixels before channels are ours, channels before pixels theirs."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)
