"""What `describe` says."""

import re
from pathlib import Path

from configs import cifar, digits, digits_classifier, digits_super_resolution, folder
from jax_ddpm.commands import describe
from tests.data.sources.made import noise, write


def said(config, capsys, workdir=Path("runs/x")):
    describe.main(config, workdir)
    return capsys.readouterr().out


def test_the_cifar_network_has_the_papers_size(capsys, tmp_path):
    config = cifar.get_config()
    config.data.directory = str(tmp_path)
    text = said(config, capsys)
    assert "parameters: 35,746,307\n" in text
    rows = re.findall(r"^  (\S+) +([\d×]+) +([\d,]+)$", text, re.MULTILINE)
    assert sum(int(count.replace(",", "")) for _, _, count in rows) == 35_746_307
    assert rows[0][0] == "time_0"
    assert rows[-1] == ("conv_out", "32×32×3", "3,459")
    # The network is known to take 6.06·10⁹ multiply-adds an image (padding counted), two FLOPs each.
    flops = float(re.search(r"FLOPs per image: ([\d.]+)", text)[1])
    assert 11.5 < flops < 12.5
    assert "tfds.builder('cifar10'" in text, "the data is not here: how to prepare it"


def test_the_digits_run_is_described(capsys):
    text = said(digits.get_config(), capsys)
    assert "data: digits, train: 1,500 images, the first of 8×8×1, 10 classes" in text
    assert "ᾱ_T = 4.04e-05" in text
    assert "config.json: every setting" in text
    assert "runs/x/" in text


def test_what_is_done_to_images_at_random_is_described(capsys):
    config = digits.get_config()
    assert "  as 8×8×1 in [-1, 1]\n" in said(config, capsys)
    config.data.update(flip=True, crop=0.8, rotate=2.5, augment=0.12)
    text = said(config, capsys)
    assert "in [-1, 1], flipped at random, cropped to 80% of the side at the least, turned by 2.5° at the most, " in text
    assert "non-leaking augmentation with probability 0.12\n" in text
    assert re.search(r"augmentation_embedding +128 +1,152\n", text)


def test_the_first_image_that_can_be_read_is_described(tmp_path, capsys):
    (tmp_path / "1.png").write_bytes(b"")
    write(tmp_path / "2.png", noise(5, 7, 3))
    config = folder.get_config()
    config.data.update(directory=str(tmp_path), on_damaged="skip")
    assert "2 images, the first of 5×7×3, no labels" in said(config, capsys)


def test_nothing_is_written(capsys, tmp_path):
    said(digits.get_config(), capsys, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_described(capsys):
    text = said(digits_classifier.get_config(), capsys)
    assert "network: NoisyClassifier on 8×8×1" in text
    rows = re.findall(r"^  (\S+) +([\d×]+) +([\d,]+)$", text, re.MULTILINE)
    assert rows[-2][:2] == ("pool", "64")
    assert rows[-1] == ("logits", "10", "650")
    total = re.search(r"parameters: ([\d,]+)\n", text)[1]
    assert sum(int(count.replace(",", "")) for _, _, count in rows) == int(total.replace(",", ""))
    assert "the cross-entropy of the class" in text
    assert "accuracy.png" in text
    assert "samples/" not in text


def test_a_network_that_enlarges_is_described(capsys):
    text = said(digits_super_resolution.get_config(), capsys)
    assert "low_res_time_0" in text
    assert "images of 'test', made small and enlarged again, at the end" in text
    assert "chain" not in text
