"""The networks in NumPy float64, from their layers up.

`p` is the part of the parameters that belongs to a layer, as float64.
"""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def sinusoids(t, features, waves=(np.sin, np.cos), shift=1):
    rates = 1e4 ** -(np.arange(features // 2) / (features // 2 - shift))
    return np.stack([[wave(each * rates) for wave in waves] for each in t]).reshape(len(t), features)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x, groups, eps=1e-6):
    split = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    centred = split - split.mean(axis=(1, 3), keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + eps)
    return (centred / deviation).reshape(x.shape) * p["scale"] + p["bias"]


def conv(p, x, stride=1, before=None):
    before = stride % 2 if before is None else before  # DDPM pads a stride of 2 below and to the right alone
    padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    out = np.zeros((len(x), x.shape[1] // stride, x.shape[2] // stride, p["kernel"].shape[-1])) + p["bias"]
    for row, column in np.ndindex(out.shape[1:3]):
        window = padded[:, row * stride : row * stride + 3, column * stride : column * stride + 3]
        out[:, row, column] += np.tensordot(window, p["kernel"], 3)
    return out


def half_size(x):
    """The mean of each four pixels."""
    return sum(x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)) / 4


def twice_size(x):
    """Each pixel four times."""
    rows, columns = (np.arange(2 * size) // 2 for size in x.shape[1:3])
    return x[:, rows][:, :, columns]


def res_block(p, x, embedding, groups, scale_shift=False, resample=lambda x: x, eps=1e-6):
    h = conv(p["conv1"], resample(silu(norm(p["norm1"], x, groups, eps))))
    x = resample(x)
    told = dense(p["embedding"], silu(embedding))[:, None, None]
    if scale_shift:
        width = h.shape[-1]
        h = norm(p["norm2"], h, groups, eps) * (1 + told[..., :width]) + told[..., width:]
    else:
        h = norm(p["norm2"], h + told, groups, eps)
    h = conv(p["conv2"], silu(h))
    return (dense(p["skip"], x) if "skip" in p else x) + h


def attention_block(p, x, heads, groups, eps=1e-6):
    h = norm(p["norm"], x, groups, eps).reshape(len(x), -1, x.shape[-1])
    query, key, value = (dense(p[name], h) for name in ("query", "key", "value"))
    width = x.shape[-1] // heads
    out = np.zeros_like(h)
    for image, head in np.ndindex(len(x), heads):
        mine = slice(head * width, (head + 1) * width)
        weights = np.exp(query[image, :, mine] @ key[image, :, mine].T / np.sqrt(width))
        out[image, :, mine] = weights / weights.sum(axis=1, keepdims=True) @ value[image, :, mine]
    return x + dense(p["out"], out).reshape(x.shape)


def attention_pool(p, x, heads):
    mean = x.mean(axis=(1, 2))[:, None]
    tokens = np.concatenate([mean, x.reshape(len(x), -1, x.shape[-1])], axis=1) + p["position"]
    query, key, value = dense(p["query"], tokens[:, 0]), dense(p["key"], tokens), dense(p["value"], tokens)
    width = x.shape[-1] // heads
    out = np.zeros_like(query)
    for image, head in np.ndindex(len(x), heads):
        mine = slice(head * width, (head + 1) * width)
        weights = np.exp(key[image, :, mine] @ query[image, mine] / np.sqrt(width))
        out[image, mine] = weights @ value[image, :, mine] / weights.sum()
    return out


def downsample(p, x):
    return conv(p["conv"], x, stride=2)


def downsample_centred(p, x):
    return conv(p["conv"], x, stride=2, before=1)


def upsample(p, x):
    return conv(p["conv"], twice_size(x))


def between(size):
    """[2·size, size] how much of each pixel a new one has: its centre lies a quarter of a pixel off one, ¾ of the next."""
    places = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))


def upsample_bilinear(p, x):
    rows, columns = between(x.shape[1]), between(x.shape[2])
    return conv(p["conv"], np.einsum("ih,jw,bhwc->bijc", rows, columns, x))


def upsample_transposed(p, x):
    spread = np.zeros((len(x), 2 * x.shape[1] + 3, 2 * x.shape[2] + 3, x.shape[3]))
    spread[:, 2:-1:2, 2:-1:2] = x
    out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], p["conv"]["kernel"].shape[-1])) + p["conv"]["bias"]
    for row, column in np.ndindex(out.shape[1:3]):
        out[:, row, column] += np.tensordot(spread[:, row : row + 4, column : column + 4], p["conv"]["kernel"], 3)
    return out


DOWN = {"conv": downsample, "conv_centred": downsample_centred, "pool": lambda p, x: half_size(x)}
UP = {"nearest": upsample, "bilinear": upsample_bilinear, "transposed": upsample_transposed}


class Network:
    """A network in NumPy float64. Where attention follows a block is read off the parameters' names."""

    def __init__(self, net, p):
        self.net, self.p = net, p

    def time(self, t, name="time", also=0):
        waves = (np.cos, np.sin) if self.net.time_cosine_first else (np.sin, np.cos)
        features = self.net.time_channels or self.net.channels
        told = sinusoids(t * self.net.time_scale, features, waves, self.net.time_frequency_shift)
        return dense(self.p[f"{name}_1"], silu(dense(self.p[f"{name}_0"], told) + also))

    def resnet(self, x, name, **options):
        return res_block(
            self.p[name], x, self.embedding, self.net.groups, self.net.scale_shift, eps=self.net.norm_eps, **options
        )

    def attention(self, x, name):
        if name not in self.p:
            return x
        heads = x.shape[-1] // self.net.head_channels if self.net.head_channels else self.net.heads
        return attention_block(self.p[name], x, heads, self.net.groups, self.net.norm_eps)

    def block(self, x, name):
        return self.attention(self.resnet(x, f"{name}_resnet"), f"{name}_attention")

    def resampled(self, x, name, in_block, alone):
        return self.resnet(x, name, resample=in_block) if self.net.block_resampling else alone(self.p.get(name), x)

    def joined(self, x, skip, name):
        if self.net.skip == "concatenate":
            return np.concatenate([x, skip], axis=-1)
        return x + (dense(self.p[name], skip) if name in self.p else skip)

    def down(self, x):
        """The way down and the middle, and what each step of it comes to."""
        x = conv(self.p["conv_in"], x)
        skips, levels = [x], range(len(self.net.multipliers))
        for level in levels:
            for number in range(self.net.blocks):
                x = self.block(x, f"down_{level}_{number}")
                skips.append(x)
            if level != levels[-1]:
                x = self.resampled(x, f"down_{level}_downsample", half_size, DOWN[self.net.downsample])
                skips.append(x)
        x = self.resnet(x, "mid_0_resnet")
        x = self.attention(x, "mid_attention")
        return self.resnet(x, "mid_1_resnet"), skips


def unet(net, p, x, t, labels=None, low_res=None, low_res_t=None, augmentation=None):
    """The whole U-Net."""
    it = Network(net, p)
    it.embedding = it.time(t, also=0 if augmentation is None else augmentation @ p["augmentation_embedding"]["kernel"])
    if labels is not None:
        it.embedding = it.embedding + p["label"]["embedding"][labels]
    if low_res is not None:
        it.embedding = it.embedding + (it.time(low_res_t, "low_res_time") if net.low_res_time else 0)
        x = np.concatenate([x, low_res], axis=-1)
    x, skips = it.down(x)
    for level in reversed(range(len(net.multipliers))):
        for number in range(net.blocks + 1):
            x = it.block(it.joined(x, skips.pop(), f"up_{level}_{number}_skip"), f"up_{level}_{number}")
        if level:
            x = it.resampled(x, f"up_{level}_upsample", twice_size, UP[net.upsample])
    assert not skips
    return conv(p["conv_out"], silu(norm(p["norm_out"], x, net.groups, net.norm_eps)))
