"""From what an evaluation.json holds of a metric to its figures: what each is called, of what it is, and against what."""

import math
import re
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A figure among what is kept of a metric: its unit, and its title, "" where that of the metric is kept beside it."""

    unit: str
    title: str = ""


class Figure(NamedTuple):
    """One number, with all that a reader has to know of it.

    Attributes:
      key: tells figures apart that cannot be compared; the metric's name, which of its figures it is if it has several, and by
        which classifier.
      title: for a reader.
      unit: of the value; a share is from 0 to 1.
      error: one standard error of the value, or None where it is not known.
      note: what else is known of how sure it is, or "".
      images: how many images or samples it is of, or None.
      of: these in words.
      reference: the real images that it is against, or "" where there are none; `reference_images` is how many, or None.
      checkpoint: the step of the weights, or None.
      weights: which they are, in words; "" where it is not known.
    """

    key: str
    title: str
    unit: str
    value: float
    error: float | None
    note: str
    images: int | None
    of: str
    reference: str
    reference_images: int | None
    checkpoint: int | None
    weights: str

    @property
    def against(self) -> str:
        """The real images that it is against, and how many they are; "" where there are none."""
        if not self.reference:
            return ""
        return f"{self.reference_images:,} of {self.reference}" if self.reference_images else self.reference


WEIGHTS = {"ema": "averaged", "last": "as the last step left them"}
"""Which weights of a run, by the word that is kept, in words."""
KINDS: dict[str, dict[str, Kind]] = {  # by metric; first of all its main figure
    "bits_per_dim": {"mean": Kind("bits/dim", "Variational bound")},
    "ode_bits_per_dim": {"mean": Kind("bits/dim", "Likelihood by the probability flow")},
    "accuracy": {"mean": Kind("share of images", "Accuracy of the classifier")},
    "agreement": {"agreement": Kind("share of samples", "Samples of the class asked for")},
    "nearest": {
        "median_distance": Kind("grey levels", "Distance from the nearest training image, median"),
        "memorised": Kind("samples", "Memorised"),
    },
}
FEATURE_KINDS: dict[str, dict[str, Kind]] = {  # of those by features, by the figure that tells which it is
    "distance": {"distance": Kind("Fréchet distance"), "infinity": Kind("Fréchet distance")},
    "score": {"score": Kind("score")},
    "blocks": {"mean": Kind("squared MMD")},
    "precision": {"precision": Kind("share of samples"), "recall": Kind("share of real images")},
    "density": {"density": Kind("density"), "coverage": Kind("share of real images")},
}


def figures(metric: str, found: dict[str, Any]) -> list[Figure]:
    """The figures of a metric.

    Args:
      metric: its name in evaluation.json, such as "fid_tensorflow", or that of another of the same metric, which says by what.
      found: what is kept there under that name.
    """
    kinds = _kinds(found.get("metric", metric), found)
    kept, main = [name for name in kinds if isinstance(found.get(name), int | float)], next(iter(kinds))
    return [
        Figure(
            key=_told_by(metric if name == main else f"{metric}_{name}", found),
            title=_told_by(kinds[name].title or _title(metric, name, tuple(kinds), found), found),
            unit=kinds[name].unit,
            value=found[name],
            error=_error(name, main, found),
            note=_note(found) if name == main or _error(name, main, found) is not None else "",
            images=found.get("images", found.get("samples")),
            of=_of(found),
            reference=found.get("reference", ""),
            reference_images=found.get("reference_images"),
            checkpoint=found.get("checkpoint"),
            weights=WEIGHTS.get(found.get("weights", ""), ""),
        )
        for name in kept
    ]


def with_error(figure: Figure) -> str:
    """The value and its error, as a table has it: both to the second digit of the error."""
    note = f" ({figure.note})" if figure.note else ""
    if not figure.error:
        return (f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:.6g}") + note
    decimals = max(1 - math.floor(math.log10(figure.error)), 0)
    return f"{figure.value:,.{decimals}f} ± {figure.error:,.{decimals}f}{note}"


def _kinds(metric: str, found: dict[str, Any]) -> dict[str, Kind]:
    """Which figures there are to look for; of a metric that is not known, what is called "mean"."""
    of_features = next((kinds for mark, kinds in FEATURE_KINDS.items() if mark in found), None)
    said = metric.replace("_", " ")
    return KINDS.get(metric) or of_features or {"mean": Kind(said, found.get("title") or said)}


def _told_by(name: str, found: dict[str, Any]) -> str:
    """With the classifier that a figure is by: another one finds something else."""
    judge = found.get("classifier")
    return f"{name} by {judge}" if judge and not name.endswith(f"by {judge}") else name


def _error(name: str, main: str, found: dict[str, Any]) -> float | None:
    """That of the main figure has no name besides."""
    return found.get("standard_error" if name == main else f"{name}_standard_error")


def _note(found: dict[str, Any]) -> str:
    """What else is known of how sure the figures are that have an error."""
    if "deviation" in found:
        return f"deviation {found['deviation']:.3g} over {found['parts']} parts"
    return "the reference taken as exact" if found.get("reference_taken_as_exact") else ""


def _title(metric: str, name: str, names: tuple[str, ...], found: dict[str, Any]) -> str:
    """The title that is kept, narrowed to one figure where it is of two; images shown in another way make another figure."""
    title, *compared = re.split("(?= against | by )", found.get("title") or metric.replace("_", " "), maxsplit=1)
    title = f"{title}∞" if name == "infinity" else title.replace(" and ".join(names), name)
    shown = f" ({found['resize']} resize)" if "resize" in found else ""
    return "".join([title[:1].upper(), title[1:], shown, *compared])


def _of(found: dict[str, Any]) -> str:
    if "samples" in found:
        return f"{found['samples']:,} samples" + (f", seed {found['seed']}" if "seed" in found else "")
    data = ", ".join(str(found[name]) for name in ("data", "split") if name in found)
    return f"{found['images']:,} images" + (f" of {data}" if data else "") if "images" in found else ""
