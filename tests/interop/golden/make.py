"""What the public code of three families of networks makes of weights that both sides can draw.

Kept are the names and shapes of each network's tensors and what it gives; the weights and the inputs follow from their names
by `made`. `out` is as the code is, float32; `exact` is with what it calls float32 made float64 (`in_float64`). So are the
images that fifty steps of their own ddim_sample_loop make of the noise x_T: `drawn`, with each estimate of x_0 held within
[-1, 1], as their scripts have it; and beside the classifier `guided`, what adm draws by it, not held, for they hold before
they guide, we after. Of the networks that OpenAI published, see `published.py`, there are the names and shapes alone. To make
the files anew, with PyTorch, where the three repositories lie beside each other in a folder, once for each of them:

    python -m tests.interop.golden.make FOLDER improved-diffusion

These are the newest commits of each repository. With PyTorch 2.13 what is float64 comes out the same but for its roundings;
`out` differs with the processor, the threads and oneDNN by up to 3e-6 of the largest value:

    openai/improved-diffusion  1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5
    openai/guided-diffusion    22e0df8183507e13a7813f8d38d51b072ca1e67c
    ermongroup/ddim            e8df66cf02e457719930748b5c26e37e3126dfdd

The networks themselves were last changed before: those of improved-diffusion and ddim by their first commits, those of
guided-diffusion by 18ff408 (before it there is no first level of half the channels).
"""

import contextlib
import importlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tests.interop.golden.published import PUBLISHED, parsed

HERE = Path(__file__).parent
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "norm_out.weight", "layers.0.weight", "out.0.weight")
T, LABELS, SCALE = np.array([3, 999]), np.array([4, 0]), 2.0
TRUTH = {"True": True, "False": False}
DEFAULTS = {  # what gives the flags that are not named, by what makes a network of them
    "create_model_and_diffusion": "model_and_diffusion_defaults",
    "sr_create_model_and_diffusion": "sr_model_and_diffusion_defaults",
    "create_classifier_and_diffusion": "classifier_and_diffusion_defaults",
}
ADM = {"use_scale_shift_norm": True, "resblock_updown": True}


def made(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name: nothing is zero, every kernel keeps the size of what goes through it. Uniform, and so stable."""
    values = (np.random.default_rng(zlib.crc32(name.encode())).random(shape) - 0.5) * 12**0.5
    if len(shape) == 1:
        return (0.3 * values + name.endswith(NORMS)).astype(np.float32)
    return (values / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def image(name: str, size: int) -> np.ndarray:
    """[2, 3, size, size] of variance 1."""
    shape = (2, 3, size, size)
    return made(name, shape) * np.float32(np.prod(shape[1:]) ** 0.5)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Within it float32 is float64, by the two ways in which the public code names it."""
    torch = importlib.import_module("torch")
    double = torch.Tensor.double
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(torch.Tensor, "float", double):
        yield


def keep(
    name: str, model: Any, *labels: Any, size: int = 8, chains: dict[str, Callable] | None = None, **small: np.ndarray
) -> None:
    """Gives a network its weights, runs it in both types and keeps what comes of it; and of each chain, told the network."""
    torch = importlib.import_module("torch")
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(made(key, shape)) for key, shape in shapes.items()})
    model.eval()

    def run(dtype: Any) -> np.ndarray:
        x, *seen = (torch.from_numpy(each).to(dtype) for each in (image("x", size), *small.values()))
        with torch.no_grad():
            out = model(x, *map(torch.from_numpy, (T, *labels)), **dict(zip(small, seen, strict=True)))
        assert out.dtype == dtype
        return out.numpy()

    kept = {"out": run(torch.float32)}
    model.double().dtype = torch.float64  # guided-diffusion's asks this attribute
    with in_float64():
        kept |= {"exact": run(torch.float64)} | {key: chain(model) for key, chain in (chains or {}).items()}
    np.savez_compressed(HERE / f"{name}.npz", shapes=json.dumps(shapes), **kept)


def fifty_steps(script: Any, model: Any, clip: bool = True, gradient: Callable | None = None, **told: np.ndarray) -> np.ndarray:
    """The end of the chain that `x_T` begins: DDIM over the linear schedule, by a network that says its variance too."""
    torch = importlib.import_module("torch")
    diffusion = script.create_gaussian_diffusion(steps=1000, learn_sigma=True, timestep_respacing="ddim50")
    x_T = torch.from_numpy(image("x_T", 8)).double()
    how = {"cond_fn": gradient} if gradient else {}
    labels = {key: torch.from_numpy(each) for key, each in told.items()}
    drawn = diffusion.ddim_sample_loop(model, x_T.shape, x_T, clip_denoised=clip, model_kwargs=labels, **how)
    assert drawn.dtype == torch.float64
    return drawn.numpy()


def gradient_of(classifier: Any) -> Callable:
    """`cond_fn` of guided-diffusion's scripts/classifier_sample.py, at scale `SCALE`."""
    torch = importlib.import_module("torch")

    def cond_fn(x: Any, t: Any, y: Any) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            logs = torch.log_softmax(classifier(x, t), dim=-1)
            return torch.autograd.grad(logs[range(len(y)), y].sum(), x)[0] * SCALE

    return cond_fn


def keep_shapes(family: str) -> None:
    """Has the published networks of a family made by its own code, from their flags and without memory; keeps their shapes."""
    torch, script = importlib.import_module("torch"), importlib.import_module(f"{family.replace('-', '_')}.script_util")
    kept = {}
    for name, network in PUBLISHED.items():
        if network.family == family:
            usual = getattr(script, DEFAULTS[network.maker])()
            said = {flag: type(usual[flag])(TRUTH.get(value, value)) for flag, value in parsed(network.flags).items()}
            with torch.device("meta"):
                model, _ = getattr(script, network.maker)(**usual | said)
            kept[name] = json.dumps({key: tuple(value.shape) for key, value in model.state_dict().items()})
    np.savez_compressed(HERE / f"{family}.npz", **kept)


def improved_diffusion() -> None:
    """Attention at the coarser of two levels, four heads; and without scale and shift, at the finer one, one head."""
    net, script = (importlib.import_module(f"improved_diffusion.{name}") for name in ("unet", "script_util"))
    net, chains = net.UNetModel, {"drawn": partial(fifty_steps, script)}
    keep("improved", net(3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, use_scale_shift_norm=True), chains=chains)
    keep("improved_without_scale", net(3, 32, 3, 2, (1,), channel_mult=(1, 1), num_heads=1, num_classes=5), LABELS)
    keep_shapes("improved-diffusion")


def guided_diffusion() -> None:
    """Both orders of qkv, heads by number and by channels, a first level of half the channels, enlarging, the classifier."""
    nets, script = (importlib.import_module(f"guided_diffusion.{name}") for name in ("unet", "script_util"))
    heads = {"num_head_channels": 16}
    new = {"num_classes": 5, "use_new_attention_order": True, **heads, **ADM}
    adm = nets.UNetModel(8, 3, 32, 6, 1, (2, 4), channel_mult=(1, 1, 2), **new)
    keep("adm", adm, LABELS, chains={"drawn": partial(fifty_steps, script, y=LABELS)})
    keep("adm_by_head", nets.UNetModel(8, 3, 64, 6, 2, (2,), channel_mult=(0.5, 1), num_heads=2, **ADM))
    enlarging = nets.SuperResModel(8, 3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, **ADM)
    keep("adm_enlarging", enlarging, low_res=image("low_res", 2))
    classifier = nets.EncoderUNetModel(8, 3, 32, 7, 2, (2,), channel_mult=(1, 2), pool="attention", **heads, **ADM)

    def guided(classifier: Any) -> np.ndarray:
        return fifty_steps(script, adm, clip=False, gradient=gradient_of(classifier), y=LABELS)

    keep("classifier", classifier, chains={"guided": guided})
    keep_shapes("guided-diffusion")


def ddim() -> None:
    """Attention at 16 pixels, of 32."""
    model = SimpleNamespace(ch=32, out_ch=3, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(16,), dropout=0.0)
    model.in_channels, model.resamp_with_conv, model.type = 3, True, "simple"
    settings = SimpleNamespace(model=model, data=SimpleNamespace(image_size=32))
    settings.diffusion = SimpleNamespace(num_diffusion_timesteps=1000)
    keep("ddim", importlib.import_module("models.diffusion").Model(settings), size=32)


FAMILIES = {"improved-diffusion": improved_diffusion, "guided-diffusion": guided_diffusion, "ddim": ddim}

if __name__ == "__main__":
    folder, family = sys.argv[1:]
    sys.path.insert(0, str(Path(folder) / family))
    FAMILIES[family]()
