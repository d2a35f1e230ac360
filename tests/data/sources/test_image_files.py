"""Image files of every kind, written here, against the pixels that were put into them."""

import io
import re
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


GREY, COLOUR = DEEP[..., None], np.stack([DEEP, DEEP[:, ::-1], np.zeros_like(DEEP)], axis=-1)
OF_COLOUR = np.stack([EIGHT, np.flip(EIGHT), np.zeros_like(EIGHT)], axis=-1)  # COLOUR's upper bytes


def tiff_of_sixteen_bits(values: np.ndarray, photometric: int, order: str = "<", extra: int | None = None) -> bytes:
    """A TIFF of one strip by its specification, for Pillow writes none with sixteen bits of colour.

    `photometric` is 0 (grey, the largest value black), 1 (grey) or 2 (RGB); `extra` what one more sample is, 2: alpha.
    """
    height, width, samples = values.shape
    strip = values.astype(f"{order}u2").tobytes()
    shorts = {256: [width], 257: [height], 258: [16] * samples, 259: [1], 262: [photometric], 277: [samples], 278: [height]}
    shorts |= {} if extra is None else {338: [extra]}
    after = 8 + 2 + 12 * (len(shorts) + 2) + 4  # the header and the directory, where what is too long for that begins
    bits = struct.pack(f"{order}{samples}H", *[16] * samples)
    entries = {
        273: struct.pack(f"{order}HHII", 273, 4, 1, after + len(bits)),
        279: struct.pack(f"{order}HHII", 279, 4, 1, len(strip)),
    }
    for tag, numbers in shorts.items():
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", after)
        entries[tag] = struct.pack(f"{order}HHI", tag, 3, len(numbers)) + value
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + bits + strip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("values", "photometric", "expected"), [(GREY, 1, np.array(EIGHT)[..., None]), (COLOUR, 2, OF_COLOUR)])
def test_of_sixteen_bits_in_a_tiff_the_upper_eight_are_kept(tmp_path, order, values, photometric, expected):
    (tmp_path / "deep.tiff").write_bytes(tiff_of_sixteen_bits(values, photometric, order))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tiff"), expected)


def test_of_sixteen_bits_in_a_tiff_that_pillow_wrote_the_upper_eight_are_kept(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "deep.tiff")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tiff")[..., 0], EIGHT)


def test_a_tiff_of_sixteen_bits_whose_largest_value_is_black_is_turned_round(tmp_path):
    (tmp_path / "negative.tiff").write_bytes(tiff_of_sixteen_bits(GREY, 0))
    np.testing.assert_array_equal(read_image(tmp_path / "negative.tiff")[..., 0], 255 - np.array(EIGHT))


def test_transparency_of_sixteen_bits_of_colour_shows_white_behind(tmp_path):
    values = np.array([[[65535, 0, 257, 65535], [0, 0, 0, 0]]], np.uint16)
    (tmp_path / "clear.tiff").write_bytes(tiff_of_sixteen_bits(values, 2, extra=2))
    np.testing.assert_array_equal(read_image(tmp_path / "clear.tiff"), [[[255, 0, 1], [255, 255, 255]]])


@pytest.mark.parametrize(
    ("content", "kind"),
    [(tiff_of_sixteen_bits(np.concatenate([GREY, GREY], -1), 1, extra=2), "TIFF"), (b"\x89PNG\r\n\x1a\n", "PNG")],
    ids=["grey and alpha of sixteen bits", "a signature alone"],
)
def test_kind_of_file_that_pillow_does_not_read_is_told_as_such(tmp_path, content, kind):
    (tmp_path / "one.tiff").write_bytes(content)
    message = f"it begins as a {kind}, but is cut short or of a kind of {kind} that Pillow does not read"
    for file, name in ((tmp_path / "one.tiff", str(tmp_path / "one.tiff")), (io.BytesIO(content), "album.zip/one")):
        with pytest.raises(DamagedImage, match=f"^{re.escape(name)} cannot be read as an image: {message}$"):
            read_image(file, name)


def test_of_sixteen_bits_in_a_png_the_upper_eight_are_kept(tmp_path):
    (tmp_path / "colour.png").write_bytes(png_of_sixteen_bits(COLOUR, 2))
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), OF_COLOUR)
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


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera that notes this EXIF orientation stores of an image."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # to be shown turned clockwise
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_turned_upright(tmp_path, suffix, orientation, channels):
    upright = UPRIGHT[..., :channels].repeat(16, axis=0).repeat(16, axis=1)  # even within the blocks of JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(as_stored(upright, orientation))
    write(tmp_path / f"photo{suffix}", stored, exif=exif, quality=100, subsampling=0, lossless=True)
    found = read_image(tmp_path / f"photo{suffix}")
    # JPEG rounds the one number that it keeps of each block, and colour to whole steps of another colour space.
    np.testing.assert_allclose(found.astype(int), np.broadcast_to(upright, found.shape), rtol=0, atol=3 * (suffix == ".jpg"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("opened", [False, True])
def test_deep_photographs_are_turned_upright(tmp_path, orientation, opened):
    deep, exif = UPRIGHT[..., 0].astype(np.uint16) * 257, Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(as_stored(deep, orientation))).save(tmp_path / "deep.tiff", exif=exif)
    file = io.BytesIO((tmp_path / "deep.tiff").read_bytes()) if opened else tmp_path / "deep.tiff"
    np.testing.assert_array_equal(read_image(file)[..., 0], UPRIGHT[..., 0])
