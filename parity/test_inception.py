"""The Inception network with random weights of pytorch-fid's and of torch-fidelity's: the same features."""

from collections import OrderedDict

import jax
import numpy as np
import pytest
import torch

import pytorch_fid.inception as pytorch_fid  # isort: skip
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # isort: skip

from jax_ddpm.evaluation.inception import RESIZES, Inception, from_torchvision  # isort: skip
from jax_ddpm.interop.torch_file import read_torch_file  # isort: skip


def random_weights() -> OrderedDict:
    """Such that every layer neither dies out nor grows, with means, variances and scales that are not the usual 0 and 1."""
    rng, weights = np.random.default_rng(0), OrderedDict()
    inception = pytorch_fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, tensor in inception.state_dict().items():
        shape = tuple(tensor.shape)
        drawn = {
            "conv.weight": lambda shape=shape: rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])),
            "bn.weight": lambda shape=shape: rng.uniform(0.8, 1.2, shape),
            "bn.bias": lambda shape=shape: rng.normal(size=shape) * 0.1,
            "running_mean": lambda shape=shape: rng.normal(size=shape) * 0.1,
            "running_var": lambda shape=shape: rng.uniform(0.5, 1.5, shape),
            "num_batches_tracked": lambda: np.array(0),
            "fc.weight": lambda shape=shape: rng.normal(size=shape) * 0.05,
            "fc.bias": lambda shape=shape: rng.normal(size=shape),
        }
        make = next(make for end, make in drawn.items() if name.endswith(end))
        weights[name] = torch.from_numpy(make()).to(tensor.dtype)
    return weights


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module", params=[False, True], ids=["as PyTorch before 1.6 wrote them", "as it writes them now"])
def file(request, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=request.param)
    return path


def test_the_weights_are_read_as_pytorch_reads_them(file, weights):
    found = read_torch_file(file)
    assert list(found) == list(weights)
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in weights.items())


@pytest.fixture(scope="module")
def ours(weights):
    variables = from_torchvision({name: tensor.numpy() for name, tensor in weights.items()})
    network = jax.jit(Inception().apply)
    return lambda images, resize: jax.tree.map(np.asarray, network(variables, RESIZES[resize](images.astype(np.float32))))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return {size: rng.integers(0, 256, (2, size, size, 3), np.uint8) for size in (32, 64, 299)}


def channels_first(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("size", [32, 64, 299])
def test_the_features_are_those_of_pytorch_fid(size, weights, ours, images, monkeypatch):
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: weights)
    network = pytorch_fid.InceptionV3([3]).eval()
    spatial = []
    network.blocks[2][6].branch1x1.register_forward_hook(lambda module, given, found: spatial.append(found))
    with torch.no_grad():
        expected = network(channels_first(images[size]) / 255)[0][:, :, 0, 0].numpy()
    found = ours(images[size], "pytorch")
    close(found.pooled, expected)
    close(found.spatial, spatial[0][:, :7].numpy().transpose(0, 2, 3, 1).reshape(2, -1))


@pytest.mark.parametrize("size", [32, 64, 299])
def test_the_features_are_those_of_torch_fidelity(size, weights, ours, images, tmp_path):
    torch.save(weights, tmp_path / "weights.pth")
    asked = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("inception", asked, feature_extractor_weights_path=tmp_path / "weights.pth")
    with torch.no_grad():
        pooled, logits = (each.numpy() for each in network(channels_first(images[size])))
    found = ours(images[size], "tensorflow")
    close(found.pooled, pooled)
    close(found.logits, logits)


def close(found, expected):
    """To 1e-4: some fifty layers of float32, each summing thousands of products in another order."""
    assert np.linalg.norm(expected) > 1
    assert expected.std(axis=0).max() > 1e-3 * np.abs(expected).max()  # the two images are not described alike
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())
