"""What benchmarks/variants.py makes of the runs that it has judged; none is trained here."""

import json

import numpy as np
import pytest

from benchmarks.variants import BOUND, COLUMNS, DISTANCE, Figures, figures, fine_power, found, is_judged, spread

SHAPE = (3, 8, 6, 2)
ROWS, COLUMNS_OF = ((-1.0) ** np.arange(size) for size in SHAPE[1:3])
# Of a wave of one pitch alone, of height 1: H·W to the power of two, in one place of the transform (Parseval).
ALL = float(SHAPE[1] * SHAPE[2]) ** 2


@pytest.mark.parametrize(
    ("pattern", "power"),
    [
        (np.ones((8, 6)), 0.0),
        (np.outer(ROWS, COLUMNS_OF), ALL),  # a checkerboard: fine both ways, and counted once
        (np.outer(ROWS, np.ones(6)), ALL),
        (np.outer(np.ones(8), COLUMNS_OF), ALL),
        (np.outer(np.cos(np.pi / 2 * np.arange(8)), np.ones(6)), 0.0),  # a pitch of four pixels
    ],
)
def test_what_has_a_pitch_of_two_pixels_has_fine_power(pattern, power):
    images = np.broadcast_to(pattern[None, :, :, None], SHAPE)
    assert fine_power(images) == pytest.approx(power, abs=1e-9)
    assert fine_power(2 * images + 5) == pytest.approx(4 * power, abs=1e-9)


def test_fine_power_is_a_mean_over_images_and_channels():
    images = np.zeros(SHAPE)
    images[0, :, :, 1] = np.outer(ROWS, COLUMNS_OF)
    assert fine_power(images) == pytest.approx(ALL / 6)


def test_of_white_noise_each_fine_place_has_its_share():
    """Each of the H·W places has H·W times the variance; H + W - 1 of them are fine. 4,000 draws are within 1/√4,000 of it."""
    noise = np.random.default_rng(0).normal(size=(4000, *SHAPE[1:]))
    assert fine_power(noise) == pytest.approx(8 * 6 * (8 + 6 - 1), rel=0.02)


def test_the_spread_is_that_of_a_sample():
    assert spread([1.0, 2.0, 4.0], 3) == "2.333 ± 1.528"  # √(((4/3)² + (1/3)² + (5/3)²)/2)
    assert spread([1.26], 1) == "1.3"


def judged(workdir, folder, **results):
    path = workdir / "evaluation" / folder / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))


def test_what_was_found_is_put_together_from_all_evaluations(tmp_path):
    assert found(tmp_path) == {}
    bound = {"metric": BOUND, "mean": 2.5}
    judged(tmp_path, "draws_100", bits_per_dim=bound)
    assert (found(tmp_path), is_judged(tmp_path)) == ({BOUND: bound}, False)
    distance = {"metric": DISTANCE, "distance": 7.0}
    judged(tmp_path, "samples", fid_classifier=distance)
    assert (found(tmp_path), is_judged(tmp_path)) == ({BOUND: bound, DISTANCE: distance}, True)


def test_the_figures_of_a_run(tmp_path):
    board = np.outer(ROWS, COLUMNS_OF)[None, :, :, None]
    real, drawn = (np.rint(128 + height * board).astype(np.uint8) for height in (10, 20))
    judged(tmp_path, "all", bound={"metric": BOUND, "mean": 2.5}, distance={"metric": DISTANCE, "distance": 7.0})
    (tmp_path / "samples/ddim").mkdir(parents=True)
    np.savez(tmp_path / "samples/ddim/samples.npz", arr_0=drawn)
    lines = [{"step": step, "images_per_second": speed} for step, speed in enumerate((100, 900, 200))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert figures(tmp_path, real) == pytest.approx(Figures(2.5, 7.0, 4.0, 200.0))
    assert set(COLUMNS) == set(Figures._fields)
