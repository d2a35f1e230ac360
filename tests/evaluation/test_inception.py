"""The layers of the Inception network: each kind of block, the resize and the order of the weights, by NumPy and Pillow.

The whole network is compared with pytorch-fid's and torch-fidelity's by `make parity`.
"""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from scipy.signal import correlate

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation import inception
from jax_ddpm.evaluation.inception import MIXED, RESIZES, SIZE, STEM, Conv, Fork, from_torchvision, resized, variable_shapes


def state_dict():
    """Random tensors under torchvision's names, of its shapes and in its order of axes."""
    rng, tensors = np.random.default_rng(0), {"fc.bias": np.zeros(1008, np.float32)}
    for name, leaf in flatten_dict(variable_shapes(), sep=".").items():
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(leaf.shape)]
        shape = tuple(leaf.shape[axis] for axis in order)
        tensors[inception._their_name(name)] = rng.normal(size=shape).astype(np.float32)
        if name.endswith(".mean"):
            tensors[inception._their_name(name).replace("running_mean", "num_batches_tracked")] = np.array(0)
    return tensors


def test_it_has_as_many_parameters_as_the_file_has_numbers():
    """95,628,359 bytes, nearly all of them float32. torchvision's has 23,834,568, in it a dense layer to 1000 classes."""
    params = sum(leaf.size for leaf in jax.tree.leaves(variable_shapes()["params"]))
    assert params == 23_834_568 - 2049 * 1000 + 2048 * 1008
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variable_shapes()["batch_stats"]))
    assert 4 * (params + 1008 + statistics) < 95_628_359 < 4 * (params + 1008 + statistics) * 1.005
    image = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.float32)
    found = jax.eval_shape(inception.Inception().apply, variable_shapes(), image)
    assert [each.shape for each in found] == [(2, 2048), (2, 2023), (2, 1008)]


def test_weights_come_under_their_names_and_what_does_not_fit_is_named():
    tensors = state_dict()
    found = from_torchvision(tensors)
    kernel = found["params"]["Mixed_6b"]["branch7x7_2"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["Mixed_6b.branch7x7_2.conv.weight"].transpose(2, 3, 1, 0))
    assert kernel.shape == (1, 7, 128, 128)
    np.testing.assert_array_equal(found["params"]["fc"]["kernel"], tensors["fc.weight"].T)
    bn = found["batch_stats"]["stem"]["Conv2d_1a_3x3"]["bn"]
    np.testing.assert_array_equal(bn["var"], tensors["Conv2d_1a_3x3.bn.running_var"])

    without = {name: tensor for name, tensor in tensors.items() if name != "Mixed_7c.branch1x1.bn.bias"}
    with pytest.raises(InvalidInput, match=r"missing Mixed_7c\.branch1x1\.bn\.bias; left over more"):
        from_torchvision(without | {"more": np.zeros(3)})
    with pytest.raises(InvalidInput, match=r"fc\.weight has shape \(1000, 2048\): .* expected \(2048, 1008\)"):
        from_torchvision(tensors | {"fc.weight": np.zeros((1000, 2048))})


def narrow(branch, factor):
    """The same with so much fewer channels."""

    def of(step):
        if isinstance(step, Fork):
            return Fork(tuple(map(of, step.ways)))
        return step._replace(features=step.features // factor) if isinstance(step, Conv) else step

    return tuple(map(of, branch))


@contextlib.contextmanager
def narrow_network(factor):
    """Within it the network has so much fewer channels everywhere."""
    mixed = {name: tuple(narrow(branch, factor) for branch in branches) for name, branches in MIXED.items()}
    variable_shapes.cache_clear()
    try:
        with mock.patch.multiple(inception, STEM=narrow(STEM, factor), MIXED=mixed):
            yield
    finally:
        variable_shapes.cache_clear()


def by_numpy(step, x, weights):
    """One step of a branch on [H, W, C], by SciPy's correlation and plain loops over places."""
    if isinstance(step, Fork):
        return np.concatenate([by_numpy(way, x, weights) for way in step.ways], axis=-1)
    if not isinstance(step, Conv):
        return pooled(step, x)
    params, statistics = (weights[kind][step.name] for kind in ("params", "batch_stats"))
    kernel, mode = params["conv"]["kernel"], step.padding.lower()
    h = np.stack([correlate(x, kernel[..., out], "full")[..., x.shape[-1] - 1] for out in range(step.features)], axis=-1)
    full_edge = [size - 1 for size in step.kernel]
    edge = full_edge if mode == "valid" else [size // 2 for size in full_edge]
    h = h[edge[0] : h.shape[0] - edge[0], edge[1] : h.shape[1] - edge[1]][:: step.stride, :: step.stride]
    bn = (h - statistics["bn"]["mean"]) / np.sqrt(statistics["bn"]["var"] + 0.001)
    return np.maximum(bn * params["bn"]["scale"] + params["bn"]["bias"], 0)


def pooled(step, x):
    """3×3: of those that are there the mean or the largest, everywhere; or the largest of every second whole one."""
    reduce, whole = {"_average": (np.mean, False), "_largest": (np.max, False), "_halved": (np.max, True)}[step.__name__]
    rows, columns = (range(1, side - 1, 2) if whole else range(side) for side in x.shape[:2])

    def around(i, j):
        return x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]

    return np.array([[reduce(around(i, j), axis=(0, 1)) for j in columns] for i in rows])


@pytest.mark.parametrize("kind", ["stem", "Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7b", "Mixed_7c"])
def test_a_block_is_what_numpy_makes_of_it(kind):
    """Of the same layers with a sixteenth of the channels, which tells as much in less time."""
    branches = tuple(narrow(branch, 16) for branch in ({"stem": (STEM,)} | MIXED)[kind])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(31, 29, 3) if kind == "stem" else (9, 7, 3)).astype(np.float32)
    block = inception._Block(branches)
    like = jax.eval_shape(block.init, jax.random.key(0), x[None])
    weights = jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32) - 0.3 * (leaf.ndim == 4), like)
    found = block.apply(weights, x[None])
    for each, branch in zip(found, branches, strict=True):
        expected = x.astype(np.float64)
        for step in branch:
            expected = by_numpy(step, expected, weights)
        np.testing.assert_allclose(each[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("side", [8, 32, 299])
def test_half_pixel_resizing_is_pillows_where_it_enlarges(side):
    image = np.random.default_rng(0).uniform(0, 255, (side, side)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    found = resized(jnp.asarray(image[None, :, :, None]), half_pixel=True)[0, :, :, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


def test_resizing_takes_points_of_a_ramp_where_each_convention_has_them_and_smooths_nothing():
    """Of an image whose values are its columns' numbers: the number of the column that each new pixel shows."""
    for side in (64, 512):
        ramp = jnp.broadcast_to(jnp.arange(side, dtype=jnp.float32)[None, None, :, None], (1, 3, side, 1))
        new = np.arange(SIZE)
        by_area = resized(ramp, half_pixel=True)[0, 0, :, 0]
        by_point = resized(ramp, half_pixel=False)[0, 0, :, 0]
        np.testing.assert_allclose(by_area, np.clip((new + 0.5) * side / SIZE - 0.5, 0, side - 1), atol=1e-3)
        np.testing.assert_allclose(by_point, np.minimum(new * side / SIZE, side - 1), atol=1e-3)
    stripes = jnp.zeros((1, 1, 598, 1)).at[:, :, ::2].set(1.0)  # every second pixel: smoothing would leave ½ everywhere
    np.testing.assert_array_equal(resized(stripes, half_pixel=False)[0, 0, :, 0], 1)


def test_both_conventions_end_in_the_range_of_the_network():
    white, black = jnp.full((1, 4, 4, 3), 255.0), jnp.zeros((1, 4, 4, 3))
    ends = {name: (float(resize(black).min()), float(resize(white).max())) for name, resize in RESIZES.items()}
    assert ends == {"pytorch": pytest.approx((-1, 1)), "tensorflow": pytest.approx((-1, 127 / 128))}
