"""The demo's last line is what others read: its form, and that it tells the truth."""

import re

import numpy as np
import pytest
from PIL import Image

from configs import cifar
from jax_ddpm.commands import demo
from jax_ddpm.errors import InvalidInput
from tests.commands.conftest import make_tiny_config

LAST_LINE = r"demo: accuracy=(\d\.\d{3}) seconds=(\d+) grid=(\S+)"


def test_a_network_that_has_learnt_nothing_fails_and_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(make_tiny_config(), tmp_path)
    assert stop.value.code == 1
    accuracy, _, grid = re.fullmatch(LAST_LINE, capsys.readouterr().out.splitlines()[-1]).groups()
    assert float(accuracy) < 0.95
    with Image.open(grid) as picture:
        assert picture.size[0] > 0


def test_samples_that_are_digits_pass(tmp_path, capsys, monkeypatch):
    def draw(config, workdir):
        examples = [demo.digits("test")[index] for index in range(50)]
        images, labels = (np.array([each[name] for each in examples]) for name in ("image", "label"))
        return demo.sample.Drawn(images, labels, workdir / "grid.png", step=6, weights="ema")

    monkeypatch.setattr(demo.train, "main", lambda config, workdir: None)
    monkeypatch.setattr(demo.sample, "draw", draw)
    demo.main(make_tiny_config(), tmp_path)
    accuracy, seconds, grid = re.fullmatch(LAST_LINE, capsys.readouterr().out.splitlines()[-1]).groups()
    assert float(accuracy) >= 0.95
    assert int(seconds) < 100
    assert grid == str(tmp_path / "grid.png")


def test_other_data_cannot_be_judged(tmp_path):
    with pytest.raises(InvalidInput, match=r"the demo judges class-conditional digits: give it --config configs/digits\.py"):
        demo.main(cifar.get_config(), tmp_path)
