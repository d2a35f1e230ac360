"""A folder of images."""

from pathlib import Path

from jax_ddpm.data.sources.image_files import IMAGE_SUFFIXES, read_image
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput


def image_folder(directory: str) -> Source:
    """The images in a folder; where they lie in subfolders, each subfolder is a class (in the order of their names).

    Names that begin with a dot or with two underscores are passed over: systems and archivers leave such things behind.

    Raises:
      InvalidInput: no folder, no images, or images both beside the subfolders and in them.
    """
    if not directory:
        raise InvalidInput("no folder given: say where the images are, --config.data.directory=PATH")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise InvalidInput(f"no folder at {root.absolute()}: --config.data.directory must name one that holds images")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    files = [path for path in files if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]
    if not files:
        raise InvalidInput(f"no images in {root.absolute()}: looked, in subfolders too, for {', '.join(IMAGE_SUFFIXES)}")
    folders = [path.relative_to(root).parts[0] if path.parent != root else None for path in files]
    names = sorted({folder for folder in folders if folder is not None})
    if names and None in folders:
        raise InvalidInput(
            f"{root.absolute()} holds {folders.count(None)} images beside its subfolders ({', '.join(names[:5])}, …): "
            "put every image into a subfolder, one a class, or none"
        )
    labels = [names.index(folder) if folder is not None else 0 for folder in folders]
    return Source("folder", len(files), lambda i: {"image": read_image(files[i]), "label": labels[i]}, tuple(names))
