"""The other side, on PyTorch: diffusers' network and schedulers, and denoising-diffusion-pytorch's process around them.

It takes the weights that ours has written, and refuses to be timed unless it comes to the same output. It imports no
JAX.
"""

import importlib.metadata
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity import torchvision_alone  # noqa: F401  before anything imports torchvision, as diffusers does

# isort: split
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

from benchmarks.speed.worker import Prepared, Request, resident_peak, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIKE = {"torch_eager": torch.contiguous_format}  # all others: channels last
AGREES = 1e-4  # of the largest number of the output
GIVEN = ("x_given", "t_given", "output_expected")


def finish() -> None:
    """Waits for the GPU, where there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def open_network(request: Request) -> tuple[UNet2DModel, float]:
    """The network with our weights, and how far its output is from ours.

    Raises:
      ValueError: too far.
    """
    layout = LIKE.get(request["variant"], torch.channels_last)
    with np.load(request["weights"]) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files if name not in GIVEN}
        x, t, expected = (torch.from_numpy(file[name]) for name in GIVEN)
    network = UNet2DModel.from_config(request["network"])
    network.load_state_dict(tensors)
    network = network.to(DEVICE, memory_format=layout).eval()
    with torch.no_grad():
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout).to(DEVICE)
        found = network(x, t.to(DEVICE)).sample.permute(0, 2, 3, 1).cpu()
    return network, same(found, expected)


def same(found: torch.Tensor, expected: torch.Tensor) -> float:
    """By how much they differ, relative to the largest number of what is expected.

    Raises:
      ValueError: too much.
    """
    difference = float((found - expected).abs().max() / expected.abs().max())
    rounded = {torch.bfloat16: 1000, torch.float32: 100 if DEVICE == "cuda" else 1}  # both multiply float32 in TF32 there
    allowed = AGREES * rounded[found.dtype]
    if not difference <= allowed:
        raise ValueError(f"the output is {difference:.1e} away, more than {allowed:.0e} of its largest number")
    return difference


def images(request: Request, network: UNet2DModel) -> torch.Tensor:
    """A batch in the layout of the variant."""
    size, channels = network.config.sample_size, network.config.in_channels
    x = torch.rand(request["case"]["batch"], channels, size, size, device=DEVICE) * 2 - 1
    return x.to(network.dtype).contiguous(memory_format=LIKE.get(request["variant"], torch.channels_last))


def dtype_of(request: Request) -> torch.dtype:
    """In which the network computes: whole when it draws, by autocast when it learns, as both are usually had."""
    return getattr(torch, request["case"]["dtype"])


def compiled(request: Request, network: UNet2DModel) -> Callable[..., Any]:
    """The network as the variant calls it."""
    return torch.compile(network, dynamic=False) if request["variant"] == "torch_compile" else network


def forward(request: Request, network: UNet2DModel) -> Callable[[], None]:
    """The network's output of a batch."""
    network = network.to(dtype_of(request))
    call, x = compiled(request, network), images(request, network)
    t = torch.full((len(x),), 500, device=DEVICE)

    def run() -> None:
        with torch.inference_mode():
            call(x, t)
        finish()

    if call is not network:
        with torch.inference_mode():
            same(call(x, t).sample, network(x, t).sample)
    return run


def diffusers_loss(request: Request, network: UNet2DModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mean square error of the noise, as diffusers' example has it."""
    scheduler, call = DDPMScheduler(**request["settings"]["chain"]), compiled(request, network)

    def loss(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(x)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),), device=DEVICE)
        return torch.nn.functional.mse_loss(call(scheduler.add_noise(x, noise, t), t).sample, noise)

    return loss


def train(request: Request, network: UNet2DModel) -> Callable[[], None]:
    """A step: loss, gradient, clipping, Adam and the average, each in the quickest form that PyTorch and diffusers have."""
    settings, own = request["settings"], request["variant"] == "denoising_diffusion_pytorch"
    network.train()
    loss = their_process(request, network) if own else diffusers_loss(request, network)
    parameters = list(network.parameters())
    rate, betas, eps = settings["learning_rate"], tuple(settings["betas"]), settings["eps"]
    adam = torch.optim.AdamW(parameters, rate, betas, eps, weight_decay=settings["weight_decay"], fused=True)
    average, x = EMAModel(parameters, decay=settings["ema_decay"], foreach=True), images(request, network)
    dtype = dtype_of(request)

    def run() -> None:
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            value = loss(x)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"])
        adam.step()
        adam.zero_grad()
        average.step(parameters)
        finish()

    return run


def sample(request: Request, network: UNet2DModel) -> Callable[[], None]:
    """A chain from noise to images of bytes: DDIM where it leaves steps out, DDPM else."""
    network = network.to(dtype_of(request))
    if request["variant"] == "denoising_diffusion_pytorch":
        process, batch = their_process(request, network), request["case"]["batch"]

        def draw() -> None:
            to_bytes(process.sample(batch_size=batch) * 2 - 1)

        return draw
    settings, steps = request["settings"], request["case"]["steps"]
    short = steps < settings["chain"]["num_train_timesteps"]
    variance = {} if short else {"variance_type": settings["variance"]}
    scheduler = (DDIMScheduler if short else DDPMScheduler)(**settings["chain"], **variance)
    scheduler.set_timesteps(steps)
    call, like = compiled(request, network), images(request, network)

    def run() -> None:
        with torch.inference_mode():
            x = torch.randn_like(like)
            for t in scheduler.timesteps.to(DEVICE):
                x = scheduler.step(call(x, t).sample, t, x).prev_sample
            to_bytes(x)

    return run


def to_bytes(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] -> [B, H, W, C] uint8, on the host."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class AsTheirs(torch.nn.Module):
    """diffusers' network in the form in which denoising-diffusion-pytorch calls its own, whose architecture is another."""

    self_condition = False

    def __init__(self, network: UNet2DModel) -> None:
        """The channels that it asks a network for."""
        super().__init__()
        self.network = network
        self.channels = self.out_dim = network.config.in_channels

    def forward(self, x: torch.Tensor, t: torch.Tensor, _: Any = None) -> torch.Tensor:
        """The network's output."""
        return self.network(x.to(self.network.dtype), t).sample.to(x.dtype)


def their_process(request: Request, network: UNet2DModel) -> Any:
    """denoising-diffusion-pytorch's GaussianDiffusion: called with images in [0, 1] it gives their loss; it samples too."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    steps = request["settings"]["chain"]["num_train_timesteps"]
    return GaussianDiffusion(
        AsTheirs(network),
        image_size=network.config.sample_size,
        timesteps=steps,
        sampling_timesteps=request["case"]["steps"] or steps,
        objective="pred_noise",
        beta_schedule=request["settings"]["chain"]["beta_schedule"],
        auto_normalize=True,
    ).to(DEVICE)


KINDS = {"forward": forward, "train": train, "sample": sample}


def prepare(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Makes a case and runs it once; what it says is what ours says, and how far its output is from ours."""
    begin = time.perf_counter()
    torch.manual_seed(0)
    network, difference = open_network(request)
    call = KINDS[request["case"]["kind"]](request, network)
    call()
    taken = time.perf_counter() - begin
    prepared.calls[request["key"]] = call
    return {"parameters": sum(each.numel() for each in network.parameters()), "difference": difference, "ready_s": taken}


def limit(prepared: Prepared, request: Request) -> dict[str, Any]:
    """A product of two matrices; whose time is the machine's limit."""
    size, cores = request["size"], request["devices"]
    dtype = getattr(torch, request["dtype"])
    left, right = (torch.ones(rows, size, dtype=dtype, device=DEVICE) for rows in (size * cores, size))

    def run() -> None:
        torch.mm(left, right)
        finish()

    prepared.calls[request["key"]] = run
    run()
    return {"flops": 2 * math.prod((*left.shape, size))}


def memory(_: Request) -> dict[str, Any]:
    """The most that was held at a time: by the process, and on the GPU where there is one."""
    return {"resident": resident_peak(), "device": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None}


def drop(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Forgets what is prepared and what was compiled for it."""
    torch._dynamo.reset()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return prepared.drop(request)


def main() -> None:
    """Serves, with a thread for each core, as we have."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high" if DEVICE == "cuda" else "highest")  # TF32 on a GPU, as JAX has it there
    prepared = Prepared()
    serve(
        {
            "about": lambda _: {
                **{name: importlib.metadata.version(name) for name in ("torch", "diffusers")},
                "backend": DEVICE,
                "threads": torch.get_num_threads(),
            },
            "prepare": lambda request: prepare(prepared, request),
            "limit": lambda request: limit(prepared, request),
            "run": prepared.run,
            "drop": lambda request: drop(prepared, request),
            "memory": memory,
        }
    )


if __name__ == "__main__":
    main()
