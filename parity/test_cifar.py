"""TensorFlow Datasets' own cifar10 builder, run by the very command that an error prints, on an archive in the real format.

The archive lies where TensorFlow Datasets keeps what it has downloaded, under the name that tells it so: nothing is fetched.
What is prepared is then read, trained on, evaluated and drawn from by processes in which TensorFlow cannot be imported.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import resource

from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput

ROOT = Path(__file__).parents[1]
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
SIZES = {"train": 5 * 12, "test": 20}
TINY = (
    *("--config.diffusion.steps=8", "--config.model.channels=8", "--config.model.multipliers=(1,2)", "--config.model.groups=4"),
    *("--config.model.blocks=1", "--config.model.attention_resolutions=()"),
    *("--config.train.steps=3", "--config.train.batch_size=8", "--config.train.log_every=1", "--config.train.sample_count=10"),
    *("--config.runtime.cpu_devices=1", "--config.eval.batch_size=10"),
)
# What this environment has of its own is hidden; the rest is seen from .venv, as `make parity` lays it out.
WITHOUT_TENSORFLOW = """
import importlib.util, runpy, sys, sysconfig
sys.path.remove(sysconfig.get_path("purelib"))
assert importlib.util.find_spec("tensorflow") is None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def noise(split: str) -> tuple[np.ndarray, np.ndarray]:
    """[N, 32, 32, 3] images and [N] labels, every class among them."""
    rng = np.random.default_rng(len(split))
    return rng.integers(0, 256, (SIZES[split], 32, 32, 3), np.uint8), rng.permutation(SIZES[split]).astype(np.uint8) % 10


def as_published(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A byte for the label; then all of the red, all of the green, all of the blue, row by row.    (Krizhevsky 2009)"""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def write_archive(path: Path) -> None:
    """cifar-10-binary.tar.gz: five files to train on, one to test on, and the names of the classes."""
    images, labels = noise("train")
    parts = zip(TRAIN_FILES, np.split(images, 5), np.split(labels, 5), strict=True)
    files = {name: as_published(*part) for name, *part in parts} | {"test_batch.bin": as_published(*noise("test"))}
    files["batches.meta.txt"] = ("\n".join(NAMES) + "\n\n").encode()
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def lay_archive(directory: Path) -> None:
    """Writes the archive where the builder looks for one that it has downloaded before."""
    (url, expected), *others = tfds.builder("cifar10", data_dir=directory).url_infos.items()
    assert not others
    path = directory / "downloads" / "cifar10" / resource.get_dl_fname(url, expected.checksum)
    write_archive(path)
    resource.get_info_path(path).write_text(json.dumps({"dataset_names": ["cifar10"], "urls": [url]}))


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Where the set lies, prepared by the command that the error names."""
    directory = tmp_path_factory.mktemp("sets")
    lay_archive(directory)
    with pytest.raises(InvalidInput) as error:
        load_source("cifar10", "train", str(directory))
    command = re.search(r'^  (python -c ".*")$', str(error.value), re.MULTILINE)
    assert command
    python, *arguments = shlex.split(command[1])
    assert python == "python"
    run(sys.executable, *arguments, TF_CPP_MIN_LOG_LEVEL="3")
    assert f"--config.data.directory={directory}" in str(error.value)
    return directory


@pytest.mark.parametrize("split", SIZES)
def test_what_is_read_is_what_the_archive_holds(prepared, split, tmp_path):
    script = tmp_path / "read.py"
    script.write_text(
        "import numpy as np\n"
        "from jax_ddpm.data.sources.load import load_source\n"
        f"source = load_source('cifar10', {split!r}, {str(prepared)!r})\n"
        "examples = [source[number] for number in range(len(source))]\n"
        "images, labels = ([example[key] for example in examples] for key in ('image', 'label'))\n"
        f"np.savez({str(tmp_path / 'found.npz')!r}, images=images, labels=labels, names=source.class_names)\n"
        "print(source.split, source.splits, source.shape)\n"
    )
    assert run(sys.executable, "-c", WITHOUT_TENSORFLOW, str(script), PYTHONPATH=str(ROOT)) == (
        f"{split} {SIZES} (32, 32, 3)\n"
    )
    found = np.load(tmp_path / "found.npz")
    assert tuple(found["names"]) == NAMES
    assert found["images"].shape == (SIZES[split], 32, 32, 3)
    pairs = {image.tobytes(): label for image, label in zip(found["images"], found["labels"], strict=True)}  # in another order
    assert pairs == {image.tobytes(): label for image, label in zip(*noise(split), strict=True)}


def test_the_papers_config_trains_on_it_and_is_evaluated_and_drawn_from(prepared, tmp_path):
    fast = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    workdir = tmp_path / "run"

    def do(*arguments: str) -> str:
        return run(sys.executable, "-c", WITHOUT_TENSORFLOW, "run.py", f"--workdir={workdir}", *arguments, **fast)

    said = do("--config=configs/cifar.py", f"--config.data.directory={prepared}", *TINY)
    assert "60 images (cifar10)" in said
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert (workdir / "samples/step_0000003.png").is_file()
    assert "on 20 images" in do("--mode=evaluate")
    assert json.loads(next(workdir.glob("evaluation/*/evaluation.json")).read_text())
    do("--mode=sample", "--config.sample.count=4", "--config.sample.batch_size=4")
    assert len(list(workdir.glob("samples/*/0000?.png"))) == 4
