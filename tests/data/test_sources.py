"""Every source against what was put into it: real digits, folders made here, prepared TensorFlow data sets made here."""

import gzip
import io
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import jax_ddpm
from jax_ddpm.data.sources import fashion_mnist
from jax_ddpm.data.sources.image_files import IMAGE_SUFFIXES, read_image
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput


def everything(source):
    examples = [source[index] for index in range(len(source))]
    return [example["image"] for example in examples], [example["label"] for example in examples]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Digits.


@pytest.mark.parametrize(("split", "size"), [("train", 1500), ("test", 297), ("all", 1797)])
def test_digits_are_grey_bytes_with_labels(split, size):
    source = load_source("digits", split)
    images, labels = everything(source)
    assert (source.name, len(source), len(images)) == ("digits", size, size)
    assert source.class_names == tuple("0123456789")
    assert {(image.shape, image.dtype.name) for image in images} == {((8, 8, 1), "uint8")}
    assert set(labels) == set(range(10))
    assert {type(label) for label in labels} == {int}


@pytest.mark.parametrize("splits", [("train", "test"), ("all",)])
def test_digits_splits_are_scikit_learns_images_each_once(splits):
    found = []
    for split in splits:
        images, labels = everything(load_source("digits", split))
        found += [(label, image.tobytes()) for image, label in zip(images, labels, strict=True)]
    bunch = load_digits()
    expected = np.round(255 * bunch.images / 16).astype(np.uint8)
    assert sorted(found) == sorted((label, image.tobytes()) for image, label in zip(expected, bunch.target, strict=True))


def test_digits_are_split_the_same_every_time():
    (first, _), (second, _) = everything(load_source("digits", "test")), everything(load_source("digits", "test"))
    np.testing.assert_array_equal(first, second)


def test_digits_have_no_other_split():
    with pytest.raises(
        InvalidInput, match=r"unknown split of digits 'tets': expected one of train, test, all\. Did you mean 'test'\?"
    ):
        load_source("digits", "tets")


# Fashion-MNIST: its four files, of a few images, written here.

CLOTHES = {
    "train": (noise(12, 28, 28), np.arange(12, dtype=np.uint8) % 10),
    "t10k": (noise(5, 28, 28), np.arange(5, 10, dtype=np.uint8)),
}


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def clothes(folder: Path, suffix: str = "") -> Path:
    """Writes the four files."""
    for begin, (images, labels) in CLOTHES.items():
        for name, values in ((f"{begin}-images-idx3-ubyte", images), (f"{begin}-labels-idx1-ubyte", labels)):
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(idx(values)) if suffix else idx(values))
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["unpacked", "gzipped"])
@pytest.mark.parametrize(("split", "begin"), [("train", "train"), ("test", "t10k")])
def test_fashion_mnist_is_its_files_with_two_black_pixels_all_round(tmp_path, suffix, split, begin):
    source = load_source("fashion_mnist", split, str(clothes(tmp_path, suffix)))
    images, labels = everything(source)
    expected, expected_labels = CLOTHES[begin]
    assert (source.name, len(source), labels) == ("fashion_mnist", len(expected), expected_labels.tolist())
    assert {type(label) for label in labels} == {int}
    assert len(source.class_names) == 10
    assert [source.class_names[label] for label in (0, 9)] == ["T-shirt/top", "Ankle boot"]
    assert {(image.shape, image.dtype.name) for image in images} == {((32, 32, 1), "uint8")}
    inside = np.stack(images)[:, 2:-2, 2:-2, 0]
    np.testing.assert_array_equal(inside, expected)
    assert np.sum(images) == np.sum(expected)  # so the rest is 0


def test_fashion_mnist_is_looked_for_where_debian_puts_it_unless_a_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", clothes(tmp_path, ".gz"))
    assert len(load_source("fashion_mnist", "train")) == 12
    with pytest.raises(InvalidInput, match=r"'fashion_mnist' is not prepared in .*elsewhere"):
        load_source("fashion_mnist", "train", str(tmp_path / "elsewhere"))


def test_fashion_mnist_that_is_nowhere_is_told_with_both_ways_to_get_it(tmp_path):
    with pytest.raises(InvalidInput) as error:
        load_source("fashion_mnist", "train", str(tmp_path))
    message = str(error.value)
    assert "data set 'fashion_mnist' is not prepared in" in message
    assert "download_and_prepare()" in message
    assert "\n  apt-get install dataset-fashion-mnist\n" in message


def test_fashion_mnist_has_no_other_split(tmp_path):
    message = r"unknown split of fashion_mnist 'tests': expected one of train, test\. Did you mean 'test'\?"
    with pytest.raises(InvalidInput, match=message):
        load_source("fashion_mnist", "tests", str(clothes(tmp_path)))


IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (LABEL_FILE, None, rf"no {LABEL_FILE} or {LABEL_FILE}\.gz in .*, where other files of fashion_mnist are"),
        (
            IMAGE_FILE,
            idx(noise(12)),
            rf"{IMAGE_FILE} begins with the bytes 00 00 08 01: .* 3 dimensions begins with 00 00 08 03",
        ),
        (LABEL_FILE, b"a text", rf"{LABEL_FILE} begins with the bytes 61 20 74 65: "),
        (LABEL_FILE, b"", rf"{LABEL_FILE} begins with the bytes : "),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:-1], "is cut short or damaged: it holds 9,423 bytes, by its own count 9,424"),
        (IMAGE_FILE, idx(CLOTHES["train"][0]) + b"0", "it holds 9,425 bytes, by its own count 9,424"),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:9], r"is cut short or damaged: it holds 9 bytes"),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:4], r"is cut short or damaged: it holds 4 bytes"),
        (IMAGE_FILE, idx(noise(12, 28, 27)), "holds images of 28×27: those of fashion_mnist are 28×28"),
        (LABEL_FILE, idx(noise(11) % 10), rf"{IMAGE_FILE} holds 12 images, .*{LABEL_FILE} 11 labels: expected as many"),
        (LABEL_FILE, idx(np.arange(12, dtype=np.uint8)), "holds a label 11: those of fashion_mnist are 0..9"),
    ],
)
def test_file_of_fashion_mnist_that_is_missing_or_damaged_is_told(tmp_path, file, content, message):
    clothes(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        load_source("fashion_mnist", "train", str(tmp_path))


@pytest.mark.parametrize("damage", ["cut off", "not gzip", "changed"])
def test_gzipped_file_that_cannot_be_unpacked_is_named(tmp_path, damage):
    path = clothes(tmp_path, ".gz") / f"{IMAGE_FILE}.gz"
    whole = path.read_bytes()
    changed = whole[:200] + bytes(100) + whole[300:]
    path.write_bytes({"cut off": whole[: len(whole) // 2], "not gzip": gzip.decompress(whole), "changed": changed}[damage])
    with pytest.raises(InvalidInput, match=rf"{IMAGE_FILE}\.gz cannot be read: "):
        load_source("fashion_mnist", "train", str(tmp_path))


# Folders.


def write(path, image: np.ndarray, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path, **options)


def test_folder_of_subfolders_has_a_class_for_each(tmp_path):
    images = {
        name: noise(4, 5, 3, seed=seed) for seed, name in enumerate(("wren/2.png", "owl/b/deep.png", "owl/a.png", "emu/1.png"))
    }
    for name, image in images.items():
        write(tmp_path / name, image)
    (tmp_path / "owl" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    source = load_source("folder", "train", str(tmp_path))
    found, labels = everything(source)
    assert source.class_names == ("emu", "owl", "wren")
    assert labels == [0, 1, 1, 2]
    for image, name in zip(found, ("emu/1.png", "owl/a.png", "owl/b/deep.png", "wren/2.png"), strict=True):
        np.testing.assert_array_equal(image, images[name])


def test_folder_without_subfolders_has_no_classes(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / "pictures" / f"{number}.png", np.full((2, 2, 1), number, np.uint8))
    monkeypatch.setenv("HOME", str(tmp_path))
    source = load_source("folder", "train", "~/pictures")
    images, labels = everything(source)
    assert (source.class_names, labels) == ((), [0, 0, 0])
    np.testing.assert_array_equal([image[0, 0, 0] for image in images], [0, 1, 2])


def test_folder_that_mixes_images_and_subfolders_is_refused(tmp_path):
    for name in ("a.png", "b.png", "cats/1.png"):
        write(tmp_path / name, noise(2, 2, 3))
    with pytest.raises(InvalidInput, match=r"holds 2 images beside its subfolders \(cats, …\)"):
        load_source("folder", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("", "no folder given: .*directory=PATH"),
        ("missing", "no folder at .*missing"),
        ("bare", r"no images in .*bare: .*\.png"),
    ],
)
def test_folder_that_is_not_there_or_has_no_images_is_refused(tmp_path, directory, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "notes.txt").write_text("nothing")
    with pytest.raises(InvalidInput, match=message):
        load_source("folder", "train", directory and str(tmp_path / directory))


@pytest.mark.parametrize("content", [b"", b"no image at all", "half"], ids=["empty", "text", "cut off"])
def test_file_that_cannot_be_read_is_named(tmp_path, content):
    write(tmp_path / "good.png", noise(32, 32, 3))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "wrong.png").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    source = load_source("folder", "train", str(tmp_path))
    assert source[0]["image"].shape == (32, 32, 3)
    with pytest.raises(InvalidInput, match=r"wrong\.png cannot be read as an image"):
        source[1]


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".PNG", ".Jpg"])
def test_every_suffix_is_read(tmp_path, suffix):
    colour = np.full((16, 16, 3), (40, 120, 200), np.uint8)
    write(tmp_path / f"one{suffix}", colour)
    image = load_source("folder", "train", str(tmp_path))[0]["image"]
    assert (image.shape, image.dtype) == ((16, 16, 3), np.uint8)
    # JPEG and WebP round the colour to whole steps of another colour space.
    lossy = suffix.lower() in (".jpg", ".jpeg", ".webp")
    np.testing.assert_allclose(image.astype(int), colour, rtol=0, atol=4 if lossy else 0)


def test_sixteen_bits_keep_their_range_and_thirty_two_are_refused(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[..., 0], [[0, 1, 128, 255]])
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InvalidInput, match=r"float.tiff has pixels of mode F, 32 bits each: expected 8 or 16 bits"):
        read_image(tmp_path / "float.tiff")


def test_grey_stays_grey_and_black_and_white_becomes_it(tmp_path):
    grey = noise(5, 7, 1)
    write(tmp_path / "grey.png", grey)
    Image.fromarray(grey.squeeze(-1)).point(lambda value: 255 * (value > 127)).convert("1").save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "two.png"), np.where(grey > 127, 255, 0))


def test_transparency_shows_white_behind(tmp_path):
    image = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 51]]], np.uint8)
    write(tmp_path / "picture.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "picture.png"), [[[200, 100, 0], [255, 255, 255], [204, 204, 204]]])


def test_palette_is_looked_up_and_its_transparent_colour_becomes_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "cut_out.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    np.testing.assert_array_equal(read_image(tmp_path / "cut_out.png"), [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])


UPRIGHT = noise(4, 6, 3)
AS_STORED = {  # by EXIF orientation: what the camera stores of UPRIGHT
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT),  # to be shown turned clockwise
    7: UPRIGHT[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", AS_STORED)
def test_photographs_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path / "photo.png", np.ascontiguousarray(AS_STORED[orientation]), exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), UPRIGHT)


# TensorFlow Datasets: real prepared sets, written by builders of this file, without TensorFlow.

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 20, "test": 6}
IMAGES = {split: noise(size, 32, 32, 3, seed=size) for split, size in SIZES.items()}


DOWNSAMPLED = noise(3, 64, 64, 3)


def png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def prepare(directory, data_set: str, features, examples, version: str = "3.0.2", config: str | None = None):
    """Writes a data set as `tfds build DATA_SET --file_format=array_record` does; `examples` is {split: list of examples}."""
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_set
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            yield from enumerate(examples[split])

    Made(data_dir=directory, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder where `cifar10` lies as the catalogue's builder writes it, and two sets that are not in the catalogue."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tensorflow_datasets")
    image, label, text = tfds.features.Image(shape=(32, 32, 3)), tfds.features.ClassLabel(names=NAMES), tfds.features.Text()
    rows = {
        split: [{"id": f"{split}_{i:05d}", "image": png(IMAGES[split][i]), "label": i % 10} for i in range(size)]
        for split, size in SIZES.items()
    }
    prepare(directory, "cifar10", {"id": text, "image": image, "label": label}, rows)
    clothing = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    pictures = [{"image": png(image), "label": label} for image, label in zip(*CLOTHES["train"], strict=True)]
    prepare(directory, "fashion_mnist", clothing, {"train": pictures}, version="3.0.1")
    pictures = [{"image": png(each)} for each in DOWNSAMPLED]
    jpeg = tfds.features.Image(encoding_format="jpeg")  # as the catalogue says; the files are PNGs for all that
    prepare(directory, "downsampled_imagenet", {"image": jpeg}, {"validation": pictures}, version="2.0.0", config="64x64")
    prepare(directory, "unlabelled", {"image": image}, {"train": [{"image": png(each)} for each in IMAGES["test"]]})
    prepare(directory, "words", {"text": text, "length": text}, {"train": [{"text": "a", "length": "1"}]})
    return directory


@pytest.mark.parametrize("split", SIZES)
def test_prepared_data_set_has_the_images_and_labels_written(prepared, split):
    source = load_source("cifar10", split, str(prepared))
    images, labels = everything(source)
    assert (source.name, len(source), source.class_names) == ("cifar10", SIZES[split], NAMES)
    assert {type(label) for label in labels} == {int}
    found = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert found == {image.tobytes(): i % 10 for i, image in enumerate(IMAGES[split])}


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:50%]", range(10)),
        ("train[5:8]", range(5, 8)),
        ("train[-10%:]", range(18, 20)),
        ("train[:2]+train[4:6]", [0, 1, 4, 5]),
    ],
)
def test_split_language_takes_a_part(prepared, split, numbers):
    whole, _ = everything(load_source("cifar10", "train", str(prepared)))
    part, _ = everything(load_source("cifar10", split, str(prepared)))
    np.testing.assert_array_equal(part, [whole[number] for number in numbers])


def test_splits_can_be_joined(prepared):
    assert len(load_source("cifar10", "train+test", str(prepared))) == 26


def test_prepared_fashion_mnist_gives_what_its_files_give(prepared, tmp_path):
    from_files, as_prepared = (
        everything(load_source("fashion_mnist", "train", str(directory))) for directory in (clothes(tmp_path), prepared)
    )
    found = {image.tobytes(): label for image, label in zip(*as_prepared, strict=True)}
    assert found == {image.tobytes(): label for image, label in zip(*from_files, strict=True)}
    assert {image.shape for image in as_prepared[0]} == {(32, 32, 1)}


def test_set_of_several_configurations_is_read_by_name_and_configuration(prepared):
    source = load_source("downsampled_imagenet/64x64", "validation", str(prepared))
    images, labels = everything(source)
    assert (source.class_names, labels) == ((), [0] * 3)
    assert {image.tobytes() for image in images} == {image.tobytes() for image in DOWNSAMPLED}


def test_set_without_labels_has_no_classes(prepared):
    source = load_source("unlabelled", "train", str(prepared))
    assert (source.class_names, everything(source)[1]) == ((), [0] * 6)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar10", "trian", r"unknown split of cifar10 'trian': expected one of .*train.* Did you mean 'train'\?"),
        ("cifar10", "trian[:50%]", "unknown split of cifar10 'trian"),
        ("cifar10", "train+tets", "tets"),
        ("cifar10", "train[:50%", r"train\[:50%"),
        ("cifar10", "train[10:3]", r"unknown split of cifar10 'train\[10:3\]'"),
        ("cifar10:1.0.0", "train", "cifar10:1.0.0.*cannot be loaded at version 1.0.0"),
        ("cifar10/zzz", "train", "BuilderConfig zzz not found"),
        ("a b", "train", r"data set 'a b': Parsing builder name string a b failed"),
        ("cifr10", "train", r"unknown data set 'cifr10': .* Did you mean 'cifar10'\?"),
        ("digit", "train", r"unknown data set 'digit': .* Did you mean 'digits'\?"),
        ("words", "train", "data set 'words' has no images: its features are .*text"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest_choice(prepared, name, split, message):
    with pytest.raises(InvalidInput, match=message):
        load_source(name, split, str(prepared))


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist/3.0.1"), ("cifar10_corrupted/fog_2", "cifar10_corrupted/fog_2/1.0.0")]
)
def test_set_that_is_not_prepared_is_told_with_where_and_how(tmp_path, name, folder):
    with pytest.raises(InvalidInput) as error:
        load_source(name, "train", str(tmp_path))
    message = str(error.value)
    assert f"data set {name!r} is not prepared in {tmp_path / folder}." in message
    command = f"tfds.builder({name!r}, data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert f'\n  python -c "import tensorflow_datasets as tfds; {command}"\n' in message
    assert f"--config.data.directory={tmp_path}" in message


def test_set_prepared_in_another_file_format_is_told_as_such(prepared, tmp_path):
    folder = shutil.copytree(prepared / "cifar10", tmp_path / "cifar10") / "3.0.2"
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in folder.glob("*array_record*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    with pytest.raises(InvalidInput, match="data set 'cifar10' is prepared, but not as array_record") as error:
        load_source("cifar10", "train", str(tmp_path))
    assert str(folder) in str(error.value)


def test_prepared_data_set_is_read_without_tensorflow(prepared):
    program = f"""
import sys
from jax_ddpm.data.sources.load import load_source
print(load_source("cifar10", "train", {str(prepared)!r})[0]["image"].shape, "tensorflow" in sys.modules)
"""
    root = Path(jax_ddpm.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "(32, 32, 3) False\n", done.stderr
