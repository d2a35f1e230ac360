"""The same network, data, batches, steps and optimizer, trained here and in diffusers' way; both judged by our evaluator.

    make .venv-parity/installed
    .venv-parity/bin/python -m benchmarks.peer_training --config digits --draws 0 --workdir runs/peer_digits
    .venv-parity/bin/python -m benchmarks.peer_training --config fashion_mnist --workdir runs/peer_fashion_mnist

"In diffusers' way" is what its example for unconditional image generation does: UNet2DModel, DDPMScheduler.add_noise, the mean
square error of the noise, AdamW, clipping at norm 1, EMAModel, on PyTorch's own threads. It is given our batches in our order,
so what differs is the initialisation, the draws of noise and time, and round-off. Its average is then put under our names, and
one command of ours says how likely both find images that were held out.
"""

import argparse
import importlib
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from parity import torchvision_alone  # noqa: F401  before anything imports torchvision, as diffusers does

# isort: split
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from ml_collections import ConfigDict

from benchmarks.speed.networks import peer_network
from jax_ddpm import experiment
from jax_ddpm.commands import evaluate, train
from jax_ddpm.config import read_config, write_config
from jax_ddpm.interop.diffusers import from_diffusers
from jax_ddpm.runtime import configure
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.weights import FILE_NAME, write_weights

LAST = 200  # steps whose mean is called the final loss


def make_config(name: str, steps: int, seed: int) -> ConfigDict:
    """A file of configs/ without classes, with the loss and the learning rate of diffusers' example."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.seed = seed
    config.model.update(class_conditional=False, label_dropout=0.0)
    config.diffusion.update(loss="eps", variance="fixed_small")
    config.train.update(steps=steps, decay="constant", ema_decay=0.995, log_every=LAST, checkpoint_every=steps)
    config.train.update(sample_every=0, sample_count=16)
    config.sampler.update(name="ddim", steps=50)  # of the few images that a run ends with
    return config


def make_peer(config: ConfigDict) -> UNet2DModel:
    """diffusers' network of the same architecture."""
    return UNet2DModel(**peer_network(config))


class Trained(NamedTuple):
    """The mean loss of the last steps, and images trained on in a second: the median over stretches of so many steps."""

    loss: float
    speed: float


def train_peer(config: ConfigDict, batches: Iterator[Any]) -> tuple[UNet2DModel, Trained]:
    """The average of the trained network."""
    torch.manual_seed(config.seed)
    settings, scheduler = config.train, DDPMScheduler(num_train_timesteps=config.diffusion.steps)
    model = make_peer(config).to(memory_format=torch.channels_last)
    average = EMAModel(model.parameters(), decay=settings.ema_decay)
    betas = (settings.adam_b1, settings.adam_b2)
    adam = torch.optim.AdamW(model.parameters(), settings.learning_rate, betas, settings.adam_eps, weight_decay=0.0)
    rate = get_scheduler("constant_with_warmup", adam, num_warmup_steps=settings.warmup_steps)
    losses, times = [], [time.perf_counter()]
    for step in range(settings.steps):
        images = torch.from_numpy(next(batches)["image"].transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
        noise, t = torch.randn_like(images), torch.randint(0, config.diffusion.steps, (len(images),))
        loss = torch.nn.functional.mse_loss(model(scheduler.add_noise(images, noise, t), t).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        adam.step()
        rate.step()
        adam.zero_grad()
        average.step(model.parameters())
        losses.append(loss.item())
        if (step + 1) % LAST == 0:
            times.append(time.perf_counter())
            print(f"diffusers: step {step + 1}/{settings.steps}  loss {np.mean(losses[-LAST:]):.4f}", flush=True)
    average.copy_to(model.parameters())
    return model, Trained(float(np.mean(losses[-LAST:])), LAST * config.train.batch_size / float(np.median(np.diff(times))))


def train_ours(config: ConfigDict, workdir: Path) -> Trained:
    """The run that `run.py` makes of it."""
    train.main(config, workdir)
    rows = read_metrics(workdir)
    return Trained(rows[-1]["loss"], float(np.median([row["images_per_second"] for row in rows])))


def keep(config: ConfigDict, model: UNet2DModel, workdir: Path) -> None:
    """Writes the peer's weights as a folder that opens like a run of ours."""
    like = jax.eval_shape(partial(experiment.init_params, config), jax.random.key(0))
    params = from_diffusers({name: tensor.numpy() for name, tensor in model.state_dict().items()}, like)
    write_config(config, workdir)
    write_weights(workdir / FILE_NAME, params, config.train.steps)


def bits_per_dim(workdir: Path, count: int, draws: int) -> str:
    """What our evaluator finds, as it prints it."""
    config = read_config(workdir)
    config.eval.update(count=count, draws=draws)
    directory = evaluate.evaluate_held_out(config, workdir, make_mesh(), ["bits_per_dim"])
    found = json.loads((directory / "evaluation.json").read_text())["bits_per_dim"]
    return f"{found['mean']:.4f} ± {found['standard_error']:.4f}"


def main() -> None:
    """Trains both, one after the other, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="the name of a file of configs/")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--count", type=int, default=0, help="held-out images to judge by; 0: all")
    parser.add_argument("--draws", type=int, default=64, help="terms of the bound drawn for each; 0: all")
    given = parser.parse_args()
    if given.workdir.exists() or given.steps % LAST:
        parser.error(f"expected a --workdir that is not there yet, and --steps a multiple of {LAST}")
    config = make_config(given.config, given.steps, given.seed)
    configure(0, "", config.train.batch_size)
    ours, theirs = given.workdir / "jax_ddpm", given.workdir / "diffusers"

    found = [train_ours(config, ours)]
    model, trained = train_peer(config, experiment.make_batches(config, experiment.make_source(config)))
    keep(config, model.eval(), theirs)
    found.append(trained)

    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{size:,} parameters each, {given.steps:,} steps of {config.train.batch_size} images")
    print(f"{'':>12}{f'loss, last {LAST}':>16}{'bits/dim held out':>22}{'images/s':>12}")
    for workdir, (loss, speed) in zip((ours, theirs), found, strict=True):
        print(f"{workdir.name:>12}{loss:>16.4f}{bits_per_dim(workdir, given.count, given.draws):>22}{speed:>12.0f}")


if __name__ == "__main__":
    main()
