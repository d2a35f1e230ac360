"""A folder or a zip of images."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from jax_ddpm.data.sources.listing import SPLIT_NAMES, Listing, list_images, split_called
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.errors import InvalidInput, choose


def image_folder(directory: str, split: str = "train") -> Source:
    """The images in a folder or a zip; where they lie in subfolders, each subfolder is a class (in the order of their names).

    Where every subfolder is called as a split is (SPLIT_NAMES), be it a single one, they are splits instead, and the subfolders
    in these are the classes: those of all splits together, so that a label means the same in each. Else there are no splits,
    and `split` counts for nothing.

    Raises:
      InvalidInput: nothing is there, no images, or images both beside the subfolders and in them; another split than there are;
        folders for training and for testing that stand beside others, or in a class.
    """
    if not directory:
        raise InvalidInput("no folder given: say where the images are, --config.data.directory=PATH")
    listing = list_images(Path(directory).expanduser())
    splits = _splits(listing.names)
    chosen = _chosen(listing.place, splits, split)
    inside = {each: [name for name in listing.names if name.startswith(each and f"{each}/")] for each in splits or ("",)}
    folders = {each: [_first_folder(name.removeprefix(f"{each}/")) for name in names] for each, names in inside.items()}
    _check_not_mixed(listing, chosen, folders[chosen])
    _check_splits_hold_all(listing, splits)
    classes = sorted({folder for each in folders.values() for folder in each if folder}) if any(folders[chosen]) else []
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(folder, 0) for folder in folders[chosen]]

    def read(index: int) -> Example:
        return {"image": listing.read(inside[chosen][index]), "label": labels[index]}

    sizes = {each: len(inside[each]) for each in splits}
    return Source("folder", len(labels), read, tuple(classes), chosen, sizes)


def _first_folder(name: str) -> str:
    """The first part of a file's name; "" where it lies in no folder."""
    return name.partition("/")[0] if "/" in name else ""


def which_split(name: str, splits: Collection[str]) -> str:
    """The one of `splits` that is called so, or else the first that means the same; `name` itself where there is none."""
    same = (split for split in splits if split_called(name) and split_called(split) == split_called(name))
    return name if name in splits else next(same, name)


def _splits(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that are splits, those for training first: all of them or none."""
    folders, order = sorted({_first_folder(name) for name in names}), list(SPLIT_NAMES)
    return tuple(sorted(folders, key=lambda name: order.index(split_called(name)))) if all(map(split_called, folders)) else ()


def _chosen(place: Path, splits: tuple[str, ...], split: str) -> str:
    """The folder of a split; "" where there are no splits."""
    if not splits:
        return ""
    return choose(f"split of {place}", which_split(split, splits), dict(zip(splits, splits, strict=True)))


def _check_not_mixed(listing: Listing, split: str, folders: Sequence[str]) -> None:
    if "" in folders and any(folders):
        names = sorted(set(folders) - {""})
        raise InvalidInput(
            f"{listing.place / split} holds {folders.count('')} images beside its subfolders ({', '.join(names[:5])}, …): "
            "put every image into a subfolder, one a class, or none"
        )


def _check_splits_hold_all(listing: Listing, splits: Sequence[str]) -> None:
    """Raises InvalidInput where what must be splits would be taken for classes, and test images for ones to train on."""
    inside = defaultdict(set)  # folder -> the folders in it, to a depth of two
    for first, second in {(*name.split("/")[:-1], "", "")[:2] for name in listing.names}:
        inside[""].add(first)
        inside[first].add(second)
    for folder, below in sorted(inside.items()):
        called = sorted(filter(split_called, below))
        if (folder or not splits) and {"train"} < set(map(split_called, called)):
            others = sorted(below - {*called, ""})
            beside = f" beside {', '.join(others[:5])}{', …' if len(others) > 5 else ''}" if others else ""
            raise InvalidInput(
                f"{listing.place / folder} holds {', '.join(called)}{beside}: splits must be all that is in the folder that "
                "--config.data.directory names, and the classes must be in them. Name that folder, move the others elsewhere, "
                "or, where classes are really called so, rename them"
            )
