"""Networks of the public code, imported by the command, against what they themselves gave: see golden/make.py."""

import json
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_ddpm import experiment
from jax_ddpm.commands import export_weights, import_weights
from jax_ddpm.config import default_config, read_config
from jax_ddpm.diffusion.guidance import classifier_guided
from jax_ddpm.diffusion.low_resolution import enlarged
from jax_ddpm.diffusion.sampling import sample
from jax_ddpm.diffusion.schedules import linear_schedule
from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.find import FORMATS
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh
from tests.interop.golden.make import HERE, LABELS, SCALE, T, image, made

# What has to be given of networks that were not published.
NOISE = {"diffusion.schedule": "linear", "diffusion.steps": 1000}
GIVEN = {
    "improved": {"data.image_size": 8, "model.heads": 4, **NOISE},
    "improved_without_scale": {"data.image_size": 8, "model.heads": 1, **NOISE},
    "adm": {"data.image_size": 8, "model.head_channels": 16, "import_weights.qkv": "whole", **NOISE},
    "adm_by_head": {"data.image_size": 8, "model.heads": 2, **NOISE},
    "adm_enlarging": {"data.image_size": 8, "model.low_res_size": 2, "model.heads": 4, **NOISE},
    "classifier": {"model.head_channels": 16, **NOISE},
    "ddim": {},
}
SETTINGS = {
    "improved": {"model.scale_shift": True, "model.downsample": "conv_centred", "diffusion.variance": "learned_range"},
    "improved_without_scale": {
        "model.scale_shift": False,
        "diffusion.variance": "fixed_large",
        "model.attention_resolutions": (8,),
    },
    "adm": {"model.block_resampling": True, "model.multipliers": (1, 1, 2), "data.class_names": tuple("01234")},
    "adm_by_head": {"model.channels": 32, "model.multipliers": (1, 2), "model.time_channels": 64, "model.blocks": 2},
    "adm_enlarging": {"model.low_res_size": 2, "model.low_res_time": False, "data.channels": 3},
    "classifier": {"model.network": "noisy_classifier", "model.blocks": 2, "data.image_size": 8},
    "ddim": {"data.image_size": 32, "model.attention_resolutions": (16,), "model.norm_eps": 1e-6},
}


def theirs(name):
    """The tensors of a network by name, and what it gave, with pixels before channels."""
    with np.load(HERE / f"{name}.npz") as kept:
        shapes = json.loads(str(kept["shapes"]))
        gave = {key: kept[key] for key in kept.files if key != "shapes"}
    tensors = {key: made(key, tuple(shape)) for key, shape in shapes.items()}
    return tensors, {key: each.transpose(0, 2, 3, 1) if each.ndim == 4 else each for key, each in gave.items()}


def ours(config, folder, dtype=jnp.float32):
    """The network that was imported, which computes in this type, and its parameters."""
    params = open_run(config, folder / "run", make_mesh()).params
    return experiment.make_network(config).clone(dtype=dtype), jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def pixels(name, size, dtype=jnp.float32):
    return jnp.asarray(image(name, size).transpose(0, 2, 3, 1), dtype)


def imported(tensors, folder, **given):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "theirs.safetensors")
    config = default_config()
    config.update_from_flattened_dict(given)
    config.import_weights.update({"from": str(folder / "theirs.safetensors"), "given": tuple(given)})
    import_weights.main(config, folder / "run")
    return read_config(folder / "run")


@pytest.mark.parametrize("name", GIVEN)
def test_the_output_is_theirs(name, tmp_path):
    tensors, gave = theirs(name)
    config = imported(tensors, tmp_path, **GIVEN[name])
    flat = {key: config[key.split(".")[0]][key.split(".")[1]] for key in SETTINGS[name]}
    assert flat == SETTINGS[name]

    def output(dtype):
        told = {"x": pixels("x", config.data.image_size, dtype), "t": jnp.asarray(T, dtype)}
        if config.model.class_conditional:
            told["labels"] = jnp.asarray(LABELS)
        if config.model.low_res_size:
            told |= {"low_res": enlarged(pixels("low_res", 2, dtype), 8), "low_res_t": jnp.zeros(2)}
        network, params = ours(config, tmp_path, dtype)
        return np.asarray(jax.jit(network.apply)({"params": params}, **told))

    assert np.abs(output(jnp.float32) - gave["out"]).max() < 1e-5 * np.abs(gave["out"]).max()
    with jax.enable_x64(True):  # the two are the same formula, but for roundings of 1e-16
        found = output(jnp.float64)
    assert found.dtype == gave["exact"].dtype == np.float64
    assert np.abs(found - gave["exact"]).max() < 1e-10 * np.abs(gave["exact"]).max()


def real(network):
    """The network, told t as float64: the sines of a whole number are float32."""
    return lambda x, t: network(x, t.astype(x.dtype))


def fifty_steps(name, guided, folder):
    """(params, scale, x_T) -> the image, in float64 and as the public code has it; and the parameters of the network."""
    config = imported(theirs(name)[0], folder / name, **GIVEN[name])
    config.sampler.update(name="ddim", steps=50, spacing="leading", clip="none" if guided else "static")
    network, params = ours(config, folder / name, jnp.float64)
    labels = jnp.asarray(LABELS) if config.model.class_conditional else None
    schedule = linear_schedule(1000, dtype=np.float64)
    np.testing.assert_allclose(experiment.make_schedule(config).betas, schedule.betas, rtol=1e-6)  # which is float32
    sampler = experiment.make_sampler(config, schedule)
    if guided:
        judged = imported(theirs("classifier")[0], folder / "classifier", **GIVEN["classifier"])
        judge, known = ours(judged, folder / "classifier", jnp.float64)
        classifier = real(partial(judge.apply, {"params": known}))

    def run(params, scale, x):
        denoiser = real(experiment.make_denoiser(network, params, labels))
        if guided:
            denoiser = classifier_guided(denoiser, classifier, labels, schedule, scale=scale)
        return sample(sampler, denoiser, x, jax.random.key(0))

    return jax.jit(run), params


def sorted_numbers(arrays):
    return np.sort(np.concatenate([np.ravel(each) for each in arrays]))


@pytest.mark.parametrize("name", GIVEN)
def test_an_export_holds_every_number_of_theirs_bit_for_bit(name, tmp_path):
    tensors, _ = theirs(name)
    config = imported(tensors, tmp_path, **GIVEN[name])
    config.export_weights.update(to="safetensors", out=str(tmp_path / "out"))
    export_weights.main(config, tmp_path / "run")
    exported = load_file(tmp_path / "out/weights.safetensors")
    np.testing.assert_array_equal(sorted_numbers(exported.values()), sorted_numbers(tensors.values()))


@pytest.mark.parametrize(
    ("name", "guided"), [("improved", False), ("adm", False), pytest.param("adm", True, marks=pytest.mark.optimised)]
)
def test_fifty_steps_of_ddim_come_to_their_image(name, guided, tmp_path):
    expected = theirs("classifier")[1]["guided"] if guided else theirs(name)[1]["drawn"]
    with jax.enable_x64(True):
        run, params = fifty_steps(name, guided, tmp_path)
        another = jax.tree.map(lambda leaf: 0.99 * leaf, params)
        asked = [(params, SCALE), (another, SCALE), *([(params, 0.0)] if guided else [])]
        found, *others = (np.asarray(run(*each, pixels("x_T", 8, jnp.float64))) for each in asked)
    assert found.dtype == expected.dtype == np.float64
    size = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-8 * size
    # With random weights most of the 384 numbers are held at -1 or 1 in the end; some that are not have to be right to 1e-8.
    assert np.sum(np.abs(found) < 0.99) > 30 or guided
    # It is no image that comes of any noise, of any network and without a classifier.
    for other in (found[::-1], *others):
        assert np.abs(found - other).max() > 0.01 * size


def test_the_other_order_of_qkv_is_another_network(tmp_path):
    config = imported(theirs("adm")[0], tmp_path, **{**GIVEN["adm"], "import_weights.qkv": "by_head"})
    other = imported(theirs("adm")[0], tmp_path / "other", **GIVEN["adm"])
    params = [
        open_run(each, path / "run", make_mesh()).params for each, path in ((config, tmp_path), (other, tmp_path / "other"))
    ]
    assert not np.array_equal(*(each["mid_attention"]["query"]["kernel"] for each in params))


@pytest.mark.parametrize(
    ("name", "given", "change", "message"),
    [
        ("improved", {}, {}, r"does not say data\.image_size, model\.heads or model\.head_channels, diffusion\.schedule, dif"),
        ("improved", {"diffusion.steps": 4000}, {}, r"diffusion\.schedule, model\.time_scale: expected also --config\.data"),
        (
            "adm_enlarging",
            {},
            {},
            r"does not say .*model\.low_res_size.*model\.heads= --config\.model\.low_res_size=",
        ),
        ("classifier", {}, {}, r"classifier, and does not say diffusion\.schedule, diffusion\.steps: expected"),
        ("improved", GIVEN["improved"], {"out.2.bias": None}, r"missing out\.2\.bias; left over none"),
        ("improved", GIVEN["improved"], {"out.3.bias": (3,)}, r"missing none; left over out\.3\.bias"),
        ("improved", GIVEN["improved"], {"out.2.bias": (7,)}, r"out\.2\.bias has shape \(7,\).*expected \(6,\)"),
        ("adm", {**GIVEN["adm"], "import_weights.qkv": "new"}, {}, r"import_weights\.qkv='new': expected by_head or whole"),
        ("ddim", {}, {"conv_out.weight": None}, r"missing conv_out\.weight"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(name, given, change, message, tmp_path):
    tensors = theirs(name)[0] | {key: np.zeros(shape or 1, np.float32) for key, shape in change.items()}
    tensors = {key: each for key, each in tensors.items() if change.get(key, ()) is not None}
    with pytest.raises(InvalidInput, match=message):
        imported(tensors, tmp_path, **given)
    assert not (tmp_path / "run").exists()


@cache
def shapes_of(name):
    """Those of our parameters, and the settings of the network."""
    settings = import_weights.settings_of(default_config(), read(name, theirs(name)[0]).settings, GIVEN[name])
    return jax.eval_shape(partial(experiment.init_params, settings), jax.random.key(0)), settings.model


def read(name, tensors):
    return next(find for is_one, find in FORMATS.values() if is_one(tensors))(tensors, GIVEN[name])


@pytest.mark.parametrize("name", GIVEN)
def test_whichever_tensor_is_missing_or_of_another_shape_is_named(name):
    tensors = theirs(name)[0]
    like, model = shapes_of(name)
    for each in tensors.keys() - {"label_emb.weight"}:
        for changed in ({}, {each: np.zeros(11, np.float32)}, {each: np.zeros((1, 1, 11, 1, 1), np.float32)}):
            rest = {key: tensor for key, tensor in tensors.items() if key != each} | changed
            with pytest.raises(InvalidInput, match=re.escape(each)):
                read(name, rest).params(like, model)


@pytest.mark.parametrize("name", ["adm", "improved_without_scale"])
def test_without_the_embedding_of_its_labels_it_is_a_network_without_classes(name):
    """Nothing else tells that there were any; the classes that there are stand in what is printed."""
    tensors = theirs(name)[0]
    assert read(name, tensors).settings["data"]["class_names"] == tuple("01234")
    del tensors["label_emb.weight"]
    settings = read(name, tensors).settings
    assert (settings["data"]["class_names"], settings["model"]["class_conditional"]) == ((), False)


def test_what_is_assumed_is_printed_with_its_values(tmp_path, capsys):
    given = {**GIVEN["adm_by_head"], "model.dropout": 0.2}
    imported(theirs("adm_by_head")[0], tmp_path, **given)
    said = capsys.readouterr().out
    assert "what is not in the weights, as OpenAI's programs have it where no flag is given: model.time_scale=1.0, " in said
    assert "import_weights.qkv='by_head', diffusion.prediction='eps'" in said
    assert "say so, --config.NAME=VALUE" in said
    assert not {"model.dropout=", "model.heads=", "diffusion.steps="} & {word.split("=")[0] + "=" for word in said.split()}


def test_tensors_of_nobody_are_told(tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no network that is known here, but some\.weight.*OpenAI or DDIM"):
        imported({"some.weight": np.zeros(3, np.float32)}, tmp_path)
