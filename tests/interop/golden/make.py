"""What the public code of three families of networks makes of weights that both sides can draw.

Kept are the names and shapes of each network's tensors and what it gives, float32; the weights and the inputs follow from their
names by `made`. To make the files anew, with PyTorch, where the repositories openai/improved-diffusion, openai/guided-diffusion
and ermongroup/ddim lie beside each other in a folder, once for each of them:

    python -m tests.interop.golden.make FOLDER improved-diffusion
"""

import importlib
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "norm_out.weight", "layers.0.weight", "out.0.weight")
T, LABELS = np.array([3, 999]), np.array([4, 0])
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


def improved_diffusion() -> None:
    """Attention at the coarser of two levels, four heads; and without scale and shift, at the finer one, one head."""
    net = importlib.import_module("improved_diffusion.unet").UNetModel
    keep("improved", net(3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, use_scale_shift_norm=True))
    keep("improved_without_scale", net(3, 32, 3, 2, (1,), channel_mult=(1, 1), num_heads=1, num_classes=5), LABELS)


def guided_diffusion() -> None:
    """Both orders of qkv, heads by number and by channels, a first level of half the channels, enlarging, the classifier."""
    nets, heads = importlib.import_module("guided_diffusion.unet"), {"num_head_channels": 16}
    new = {"num_classes": 5, "use_new_attention_order": True, **heads, **ADM}
    keep("adm", nets.UNetModel(8, 3, 32, 6, 1, (2, 4), channel_mult=(1, 1, 2), **new), LABELS)
    keep("adm_by_head", nets.UNetModel(8, 3, 64, 6, 2, (2,), channel_mult=(0.5, 1), num_heads=2, **ADM))
    enlarging = nets.SuperResModel(8, 3, 32, 6, 1, (2,), channel_mult=(1, 2), num_heads=4, **ADM)
    keep("adm_enlarging", enlarging, low_res=image("low_res", 2))
    keep("classifier", nets.EncoderUNetModel(8, 3, 32, 7, 2, (2,), channel_mult=(1, 2), pool="attention", **heads, **ADM))


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
