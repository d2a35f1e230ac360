"""What `--mode plan` says of the very step that training compiles."""

import json
import re

import jax
import pytest
from jax.errors import JaxRuntimeError

from configs import cifar
from jax_ddpm.commands import plan
from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.products import WIDE
from jax_ddpm.step_program import abstract_state, compile_step
from jax_ddpm.training.chips import CHIPS, Chip
from jax_ddpm.training.programs import by_kind, read_program
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import make_tiny_config, tiny_flags
from tests.commands.test_command_line import run
from tests.models.numbers import SIDE


def said(capsys, workdir, topology, **train_settings):
    config = make_tiny_config(**train_settings)
    config.plan.topology = topology
    plan.main(config, workdir)
    return capsys.readouterr().out


def row(text, name):
    return re.search(rf"^{name} +(.*)$", text, re.MULTILINE)[1]


def test_a_plan_for_devices_of_the_cpu_by_the_command_line(tmp_path):
    status, out, error = run(
        *("--config=configs/digits.py", f"--workdir={tmp_path}", "--mode=plan", "--topology=cpu:8"), *tiny_flags()
    )
    assert status == 0, error
    assert row(out, "devices") == "cpu:8: 8 × CPU, 8 data × 1 fsdp"
    assert row(out, "batch") == "8 images, 1 a device, in 1 part(s)"
    numbers = json.loads((tmp_path / "plan.json").read_text())
    # The gradient and the loss, four bytes a number, in one sum: no gathers, nothing of activations.
    assert numbers["collectives"] == {"all-reduce": [1, 4 * (numbers["parameters"] + 1)]}
    assert "no estimate" in row(out, "time")


def test_a_plan_for_gpus(capsys, tmp_path):
    text = said(capsys, tmp_path, "gpu:4xH100", steps=3_600_000)
    assert row(text, "fits").startswith("yes: 0% of 80 GB")
    numbers = json.loads((tmp_path / "plan.json").read_text())
    assert (numbers["fits"], numbers["device_memory"]) == (True, 80e9)
    assert numbers["images_per_second"] == pytest.approx(8 / numbers["seconds"]["step"])
    assert "those of XLA's CPU compiler" in text
    assert "nothing was run: the true time is longer, unless" in text
    step = re.match(r"([\d.]+) ms \(computing ([\d.]+), memory ([\d.]+), links ([\d.]+) ms\)", row(text, "step, by the peaks"))
    seconds = float(re.match(r"[\d.e-]+", row(text, "run, by the peaks"))[0]) / 1000  # so many hours for 3.6 million steps
    assert float(step[1]) == pytest.approx(1e3 * seconds, abs=0.006)
    assert float(row(text, "images/s, by the peaks").replace(",", "")) == pytest.approx(8 / seconds, rel=0.01)
    computed, asked = re.findall(r"([\d.]+) [kM]FLOP", row(text, "computes"))
    # The step beside three times the network's forward pass: the update of the parameters, the draws and the losses.
    assert 0.8 < float(computed) / float(asked) < 1.6


def test_a_plan_for_gpus_has_nothing_of_the_cpus_own_ways(capsys, tmp_path):
    config = make_tiny_config()
    config.plan.topology, config.data.image_size = "gpu:4xH100", SIDE
    config.model.update(channels=WIDE, attention_resolutions=())
    plan.main(config, tmp_path)
    computed, asked = re.findall(r"([\d.]+) GFLOP", row(capsys.readouterr().out, "computes"))
    assert 0.95 < float(computed) / float(asked) < 1.2  # Winograd's convolutions would be two thirds


def test_what_does_not_fit_is_told_with_what_would_help(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(CHIPS, "tiny", Chip("Tiny", 1e12, 1e12, 1e5, 1e9, 1e9))
    with pytest.raises(SystemExit, match="does not fit"):
        said(capsys, tmp_path, "gpu:4xtiny", accumulate=2, batch_size=16)
    text = capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is False
    assert row(text, "fits").startswith("NO: ")
    assert "--config.train.accumulate=4, " in text
    assert "--config.model.remat=blocks" in text
    assert "FLOPs and memory traffic are 2 times those of one part" in text


def test_each_device_computes_as_much_on_more_devices_with_as_much_more_to_do():
    flops, sums = [], []
    for devices in (2, 4):
        config = make_tiny_config(batch_size=8 * devices)
        config.data.class_names = tuple("0123456789")
        mesh = make_mesh(devices=jax.devices()[:devices])
        program = read_program(compile_step(config, mesh, abstract_state(config, mesh)))
        flops.append(program.flops)
        sums.append(by_kind(program.collectives))
    assert flops[1] == pytest.approx(flops[0], rel=0.01)
    assert sums[0] == sums[1]


def test_the_data_need_not_be_there(tmp_path, monkeypatch):
    config = cifar.get_config()
    config.data.directory = str(tmp_path)
    config.plan.topology = "cpu:4"

    class AboutToCompileError(Exception):
        pass

    def about_to_compile(config, mesh, like):
        raise AboutToCompileError

    monkeypatch.setattr(plan, "compile_step", about_to_compile)
    with pytest.raises(AboutToCompileError):
        plan.main(config, tmp_path)


REFUSED = [
    ({"plan": {}}, "--mode plan needs --topology, the devices to plan for: v5e:16x16"),
    ({"train": {"parallel": "pmap"}}, "Expected train.parallel=jit"),
    ({"train": {"batch_size": 6}}, "batch_size=6 does not divide over 4 devices"),
    ({"mesh": {"fsdp": 3}}, "mesh.data=0 × mesh.fsdp=3, and there are 4 devices"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_be_planned(settings, message, tmp_path):
    config = make_tiny_config()
    config.plan.topology = "" if "plan" in settings else "cpu:4"
    for group, values in settings.items():
        config[group].update(values)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        plan.main(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_runs_out_of_the_devices_memory_says_so(tmp_path, monkeypatch):
    def run_out(config, mesh, like):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.02G of 15.75G hbm.\nmore")

    monkeypatch.setattr(plan, "compile_step", run_out)
    config = make_tiny_config()
    config.plan.topology = "cpu:4"
    with pytest.raises(
        SystemExit, match=r"does not fit: .* Used 21.02G of 15.75G hbm.\nWhat would help:\n  --config.train.acc"
    ):
        plan.main(config, tmp_path)
