"""Google's emoji, from the npm package emoji-datasource-google."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.errors import InvalidInput, choose

EMOJI_PLACE = Path("data/emoji")  # where `make data` puts the package
EMOJI_NAMES = (  # as in Unicode's own charts
    "Smileys & Emotion",
    "People & Body",
    "Component",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)


def emoji(split: str, directory: str = "") -> Source:
    """Google's (Noto) emoji, colour, 64×64 on white; their ten categories are the classes, of 5 to 386 images.

    In version 16.0.0 of the package there are 1,911 without a skin tone, split by a fixed shuffle into "train" (1,720) and
    "test" (191); "all" is both. In "train+skin_tones" there are those for training in each skin tone besides.

    Args:
      directory: the package's folder, in which emoji.json and img/google/64 are; "" is EMOJI_PLACE.
    Raises:
      InvalidInput: another split, or the package is not there or damaged; the message says how to get it.
    """
    folder = Path(directory).expanduser() if directory else EMOJI_PLACE
    entries = sorted(_entries(folder), key=lambda entry: entry["unified"])
    order = np.random.default_rng(0).permutation(len(entries))
    for_training = len(entries) - round(len(entries) / 10)
    train, test = ([entries[number] for number in part] for part in (order[:for_training], order[for_training:]))
    toned = [variation for entry in train for variation in _variations(entry)]
    splits = {"train": train, "test": test, "all": train + test, "train+skin_tones": train + toned}
    chosen = choose("split of emoji", split, splits)

    def read(index: int) -> Example:
        entry = chosen[index]
        image = read_image(folder / "img" / "google" / "64" / entry["image"])
        colour = np.broadcast_to(image, (*image.shape[:2], 3))  # some are stored in grey
        return {"image": colour, "label": EMOJI_NAMES.index(entry["category"])}

    sizes = {name: len(part) for name, part in splits.items()}
    return Source("emoji", len(chosen), read, EMOJI_NAMES, split, sizes, (64, 64, 3), "Apache-2.0")


def _variations(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An emoji in its skin tones, if it has any."""
    toned = entry.get("skin_variations", {}).values()
    return [{**variation, "category": entry["category"]} for variation in toned if variation.get("has_img_google", True)]


def _entries(folder: Path) -> list[dict[str, Any]]:
    """What emoji.json says of each that Google has drawn."""
    if not (folder / "emoji.json").is_file():
        raise InvalidInput(
            f"no emoji.json in {folder.absolute()}: emoji are read from the npm package emoji-datasource-google. `make data` "
            "gets it, or\n  npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz\n"
            "with --config.data.directory=package"
        )
    try:
        entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
        drawn = [entry for entry in entries if entry.get("has_img_google", True)]
        unknown = {entry["category"] for entry in drawn} - set(EMOJI_NAMES)
        whole = not unknown and all(entry["unified"] and entry["image"] for entry in drawn)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{folder.absolute() / 'emoji.json'} cannot be read: {type(error).__name__} {error}") from error
    if not drawn or not whole:
        what = f"the categories {', '.join(sorted(unknown))}" if unknown else "no emoji of Google's"
        raise InvalidInput(f"{folder.absolute() / 'emoji.json'} has {what}: expected that of emoji-datasource-google 16.0.0")
    return drawn
