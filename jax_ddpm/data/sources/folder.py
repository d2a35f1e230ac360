"""A folder or a zip of images."""

from collections.abc import Sequence
from pathlib import Path

from jax_ddpm.data.sources.listing import SPLITS, Listing, list_images
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.errors import InvalidInput, choose

VALIDATION = ("val", "valid", "validation")  # one split, whatever it is called


def image_folder(directory: str, split: str = "train") -> Source:
    """The images in a folder or a zip; where they lie in subfolders, each subfolder is a class (in the order of their names).

    Where the subfolders are called train and test, or val, valid or validation, they are splits instead, and the subfolders in
    these are the classes: those of all splits together, so that a label means the same in each. Else there are no splits, and
    `split` counts for nothing.

    Raises:
      InvalidInput: nothing is there, no images, or images both beside the subfolders and in them; another split than there are.
    """
    if not directory:
        raise InvalidInput("no folder given: say where the images are, --config.data.directory=PATH")
    listing = list_images(Path(directory).expanduser())
    splits = _splits(listing.names)
    chosen = _chosen(listing.place, splits, split)
    inside = {each: [name for name in listing.names if name.startswith(each and f"{each}/")] for each in splits or ("",)}
    folders = {each: [_first_folder(name.removeprefix(f"{each}/")) for name in names] for each, names in inside.items()}
    _check_not_mixed(listing, chosen, folders[chosen])
    classes = sorted({folder for each in folders.values() for folder in each if folder}) if any(folders[chosen]) else []
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(folder, 0) for folder in folders[chosen]]

    def read(index: int) -> Example:
        return {"image": listing.read(inside[chosen][index]), "label": labels[index]}

    return Source("folder", len(labels), read, tuple(classes), chosen, splits)


def _first_folder(name: str) -> str:
    """The first part of a file's name; "" where it lies in no folder."""
    return name.partition("/")[0] if "/" in name else ""


def _splits(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that are splits: all of them, and one for training, or none."""
    folders = {_first_folder(name) for name in names}
    return tuple(name for name in SPLITS if name in folders) if "train" in folders and folders <= set(SPLITS) else ()


def _chosen(place: Path, splits: tuple[str, ...], split: str) -> str:
    """The folder of a split; "" where there are no splits."""
    if not splits:
        return ""
    if split in VALIDATION and split not in splits:
        split = next((name for name in splits if name in VALIDATION), split)
    return choose(f"split of {place}", split, dict(zip(splits, splits, strict=True)))


def _check_not_mixed(listing: Listing, split: str, folders: Sequence[str]) -> None:
    if "" in folders and any(folders):
        names = sorted(set(folders) - {""})
        raise InvalidInput(
            f"{listing.place / split} holds {folders.count('')} images beside its subfolders ({', '.join(names[:5])}, …): "
            "put every image into a subfolder, one a class, or none"
        )
