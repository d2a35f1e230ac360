"""Workdirs made by hand, in the form that the commands write, with numbers that are known."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from jax_ddpm.config import to_dict, write_config
from jax_ddpm.pictures import filmstrip, grid, save_png
from jax_ddpm.training.environment import note_start

SIZE, CLASSES = 8, tuple("0123456789")
STEPS = (100, 200, 300)
METRICS = [{"step": 50 * n, "loss": 0.7 / n, "grad_norm": 2.0 / n, "images_per_second": 300.5 - n} for n in range(1, 7)]
TERMS = [(t, 2.0 / (t + 1), 0.01 * t, 90.0 / (t + 1)) for t in range(8)]


def config(**settings: object) -> ConfigDict:
    made = digits.get_config()
    made.train.steps = 300
    made.diffusion.steps = 8
    made.data.class_names = CLASSES
    made.update_from_flattened_dict(settings)
    return made


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """[count, 8, 8, 1] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 1), np.uint8)


def chain() -> np.ndarray:
    """[9, 10, 8, 8, 1] uint8: nine states of ten chains."""
    return np.random.default_rng(1).integers(0, 256, (9, 10, SIZE, SIZE, 1), np.uint8)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def draw_samples(workdir: Path, name: str, made: ConfigDict, seed: int = 0) -> None:
    save_png(workdir / "samples" / name / "grid.png", grid(pictures(20), 10), image_size=SIZE)
    drawn = {"checkpoint": 300, "weights": "ema", "samples": 20, "evaluations": made.sampler.steps or 8}
    made.sample.seed = seed
    write_json(
        workdir / "samples" / name / "samples.json", drawn | {k: to_dict(made)[k] for k in ("sample", "sampler", "guidance")}
    )


def found_nearest(distance: float) -> dict[str, Any]:
    figures = {"memorised": 1, "median_distance": distance, "held_out_median_distance": 30.25}
    drawn = {"checkpoint": 300, "weights": "ema", "samples": 20, "seed": 0}
    drawn |= {k: to_dict(config())[k] for k in ("sample", "sampler", "guidance")}
    return {"nearest": {"metric": "nearest", **figures, **drawn}}


def make_workdir(workdir: Path, **settings: object) -> Path:
    """One with all that a report shows."""
    write_config(config(**settings), workdir)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    for step in STEPS:
        save_png(workdir / f"samples/step_{step:07d}.png", grid(pictures(20, step), 10), image_size=SIZE)
        save_png(workdir / f"samples/step_{step:07d}_chain.png", filmstrip(chain()), image_size=SIZE)
    note_start(workdir, 0, "0.1.0")
    note_start(workdir, 120, "0.1.0")
    draw_samples(workdir, "step_0000300_seed_0", config())
    draw_samples(workdir, "step_0000300_ddim_steps_4_seed_0", config(**{"sampler.name": "ddim", "sampler.steps": 4}))
    place = workdir / "evaluation"
    bound = {
        "metric": "bits_per_dim",
        "mean": 3.25,
        "standard_error": 0.125,
        "images": 64,
        "checkpoint": 300,
        "weights": "last",
    }
    write_json(place / "step_0000300_test_seed_0/evaluation.json", {"bits_per_dim": bound})
    rows = "".join(f"{','.join(map(str, row))}\n" for row in TERMS)
    (place / "step_0000300_test_seed_0/vlb_terms.csv").write_text("t,bits_per_dim,rate,rmse\n" + rows)
    write_json(place / "samples_20_step_0000300_seed_0/evaluation.json", found_nearest(24.5))
    save_png(place / "samples_20_step_0000300_seed_0/nearest.png", grid(pictures(8), 8), image_size=SIZE)
    return workdir


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return make_workdir(tmp_path / "run")


VOID = {"meta", "link", "img", "input", "source", "br", "hr"}


class Page(HTMLParser):
    """What a parser that is not ours sees of a page.

    Attributes:
      tags: (tag, attributes) in their order.
      tables: by caption, rows of text.
      texts: the text within each tag of a kind, such as h2.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, "a tag is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, text = self._open.pop()
        assert opened == tag, f"{opened} is closed by {tag}"
        self.texts.append((tag, "".join(text).strip()))

    def of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def tables(self) -> dict[str, list[list[str]]]:
        """The texts of cells in the order in which they were closed: caption, then cells, then rows."""
        found: dict[str, list[list[str]]] = {}
        caption, row = "", []
        for tag, text in self.texts:
            if tag == "caption":
                caption = text
            elif tag in ("th", "td"):
                row.append(text)
            elif tag == "tr":
                found.setdefault(caption, []).append(row)
                row = []
        return found
