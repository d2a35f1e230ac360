"""What the public code of three families of networks makes of weights that both sides can draw.

Kept are the names and shapes of each network's tensors and what it gives, float32; the weights and the inputs follow from their
names by `made`. Of the networks that OpenAI published, see `published.py`, there are the names and shapes alone. To make the
files anew, with PyTorch, where the three repositories lie beside each other in a folder, once for each of them:

    python -m tests.interop.golden.make FOLDER improved-diffusion

These commits, the newest of each repository, make what is kept bit for bit, on two threads of PyTorch 2.13; on one thread, or
without oneDNN, it differs by up to 1e-6 of the largest value:

    openai/improved-diffusion  1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5
    openai/guided-diffusion    22e0df8183507e13a7813f8d38d51b072ca1e67c
    ermongroup/ddim            e8df66cf02e457719930748b5c26e37e3126dfdd

The networks themselves were last changed before: those of improved-diffusion and ddim by their first commits, those of
guided-diffusion by 18ff408 (before it there is no first level of half the channels).
"""

import importlib
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.interop.golden.published import PUBLISHED, parsed

HERE = Path(__file__).parent
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "norm_out.weight", "layers.0.weight", "out.0.weight")
T, LABELS = np.array([3, 999]), np.array([4, 0])
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


def keep(name: str, model: Any, *labels: Any, size: int = 8, **small: np.ndarray) -> None:
    """Gives a network its weights, runs it and keeps what comes of it."""
    torch = importlib.import_module("torch")
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(made(key, shape)) for key, shape in shapes.items()})
    told = [torch.from_numpy(each) for each in (image("x", size), T, *labels)]
    with torch.no_grad():
        out = model.eval()(*told, **{key: torch.from_numpy(each) for key, each in small.items()})
    np.savez(HERE / f"{name}.npz", out=out.numpy(), shapes=json.dumps(shapes))


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
    net = importlib.import_module("improved_diffusion.unet").UNetModel
    keep("improved", net(3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, use_scale_shift_norm=True))
    keep("improved_without_scale", net(3, 32, 3, 2, (1,), channel_mult=(1, 1), num_heads=1, num_classes=5), LABELS)
    keep_shapes("improved-diffusion")


def guided_diffusion() -> None:
    """Both orders of qkv, heads by number and by channels, a first level of half the channels, enlarging, the classifier."""
    nets, heads = importlib.import_module("guided_diffusion.unet"), {"num_head_channels": 16}
    new = {"num_classes": 5, "use_new_attention_order": True, **heads, **ADM}
    keep("adm", nets.UNetModel(8, 3, 32, 6, 1, (2, 4), channel_mult=(1, 1, 2), **new), LABELS)
    keep("adm_by_head", nets.UNetModel(8, 3, 64, 6, 2, (2,), channel_mult=(0.5, 1), num_heads=2, **ADM))
    enlarging = nets.SuperResModel(8, 3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, **ADM)
    keep("adm_enlarging", enlarging, low_res=image("low_res", 2))
    keep("classifier", nets.EncoderUNetModel(8, 3, 32, 7, 2, (2,), channel_mult=(1, 2), pool="attention", **heads, **ADM))
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
