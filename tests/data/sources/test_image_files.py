"""Image files of every kind, written here, against the pixels that were put into them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.data.sources.image_files import IMAGE_SUFFIXES, read_image
from jax_ddpm.data.sources.source import DamagedImage
from tests.data.sources.made import noise, write


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's, of a TIFF
@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98])
def test_file_that_was_cut_off_is_named(tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    write(whole, noise(32, 32, 3))
    content = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedImage, match=rf"/cut\{suffix} cannot be read as an image: "):
        read_image(tmp_path / f"cut{suffix}")


def test_other_files_under_an_image_s_name_are_named(tmp_path):
    (tmp_path / "text.png").write_bytes(b"no image at all")
    with pytest.raises(DamagedImage, match=r"text\.png cannot be read as an image: it begins as none of a known format does"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DamagedImage, match=r"missing\.png cannot be read as an image: .*No such file"):
        read_image(tmp_path / "missing.png")


def test_image_of_more_pixels_than_pillow_takes_is_named(tmp_path, monkeypatch):
    write(tmp_path / "vast.png", noise(11, 20, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedImage, match=r"vast\.png cannot be read as an image: Image size \(220 pixels\) exceeds limit"):
        read_image(tmp_path / "vast.png")


def test_open_file_is_read_and_called_by_its_name(tmp_path):
    image = noise(3, 4, 3)
    write(tmp_path / "one.png", image)
    content = (tmp_path / "one.png").read_bytes()
    np.testing.assert_array_equal(read_image(io.BytesIO(content), "album.zip/one.png"), image)
    for damaged in (b"text", content[:40]):
        with pytest.raises(DamagedImage, match=r"^album\.zip/one\.png cannot be read as an image: [^<]*$"):
            read_image(io.BytesIO(damaged), "album.zip/one.png")


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".PNG", ".Jpg"])
def test_every_suffix_is_read(tmp_path, suffix):
    colour = np.full((16, 16, 3), (40, 120, 200), np.uint8)
    write(tmp_path / f"one{suffix}", colour)
    image = read_image(tmp_path / f"one{suffix}")
    assert (image.shape, image.dtype) == ((16, 16, 3), np.uint8)
    # JPEG and WebP round the colour to whole steps of another colour space.
    lossy = suffix.lower() in (".jpg", ".jpeg", ".webp")
    np.testing.assert_allclose(image.astype(int), colour, rtol=0, atol=4 if lossy else 0)


DEEP = np.array([[0, 255, 256, 257, 32896, 65279, 65280, 65535]], np.uint16)
EIGHT = [[0, 0, 1, 1, 128, 254, 255, 255]]  # DEEP's upper bytes


def png_of_sixteen_bits(values: np.ndarray, colour: int, chunk: tuple[bytes, bytes] = (b"tEXt", b"")) -> bytes:
    """A PNG by its specification, for Pillow writes none with sixteen bits of colour; `colour` is 0 (grey) or 2 (RGB)."""

    def chunks(*named):
        return b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in named
        )

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunks((b"IHDR", head), chunk, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


@pytest.mark.parametrize(("byte_order", "mode"), [("<u2", "I;16"), (">u2", "I;16B")])
def test_of_sixteen_bits_of_grey_the_upper_eight_are_kept(tmp_path, byte_order, mode):
    picture = Image.fromarray(DEEP.astype(byte_order))
    assert picture.mode == mode
    picture.save(tmp_path / "deep.tiff")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tiff")[..., 0], EIGHT)


def test_of_sixteen_bits_in_a_png_the_upper_eight_are_kept(tmp_path):
    colour = np.stack([DEEP, DEEP[:, ::-1], np.zeros_like(DEEP)], axis=-1)
    (tmp_path / "colour.png").write_bytes(png_of_sixteen_bits(colour, 2))
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), np.stack([EIGHT, np.flip(EIGHT), 0 * DEEP], axis=-1))
    (tmp_path / "grey.png").write_bytes(png_of_sixteen_bits(DEEP, 0))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 0], EIGHT)


def test_value_that_a_png_of_sixteen_bits_calls_transparent_becomes_white(tmp_path):
    (tmp_path / "cut_out.png").write_bytes(png_of_sixteen_bits(DEEP, 0, (b"tRNS", struct.pack(">H", 257))))
    np.testing.assert_array_equal(read_image(tmp_path / "cut_out.png")[..., 0], [[0, 0, 1, 255, 128, 254, 255, 255]])


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_thirty_two_bits_are_refused(tmp_path, kind, mode):
    Image.fromarray(DEEP.astype(kind)).save(tmp_path / "deeper.tiff")
    with pytest.raises(DamagedImage, match=rf"deeper.tiff has pixels of mode {mode}, 32 bits each: expected 8 or 16 bits"):
        read_image(tmp_path / "deeper.tiff")


def test_ink_is_read_as_the_light_that_it_leaves(tmp_path):
    ink = noise(8, 9, 4)
    Image.fromarray(ink, "CMYK").save(tmp_path / "ink.tiff")
    light = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255
    np.testing.assert_allclose(read_image(tmp_path / "ink.tiff"), light, rtol=0, atol=0.5)  # rounded
    Image.new("CMYK", (16, 16), (0, 100, 200, 51)).save(tmp_path / "ink.jpg", quality=100)
    expected = np.broadcast_to([204, 155 * 0.8, 55 * 0.8], (16, 16, 3))
    np.testing.assert_allclose(read_image(tmp_path / "ink.jpg"), expected, rtol=0, atol=3)  # JPEG's own error


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_of_moving_pictures_the_first_is_taken(tmp_path, suffix):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    first.save(tmp_path / f"moving{suffix}", save_all=True, append_images=[second], lossless=True)
    with Image.open(tmp_path / f"moving{suffix}") as file:
        assert file.n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / f"moving{suffix}"), np.asarray(first))


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


def test_transparent_grey_stays_grey(tmp_path):
    image = np.array([[[100, 255], [100, 0], [0, 51]]], np.uint8)
    Image.fromarray(image, "LA").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), [[[100], [255], [204]]])


def test_palette_is_looked_up_and_its_transparent_colour_becomes_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "cut_out.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    picture.save(tmp_path / "veiled.png", transparency=bytes((255, 255, 51)))
    np.testing.assert_array_equal(read_image(tmp_path / "cut_out.png"), [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])
    np.testing.assert_array_equal(read_image(tmp_path / "veiled.png"), [[[10, 20, 30], [40, 50, 60], [218, 220, 222]]])


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
