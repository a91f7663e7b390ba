"""Where the images of a list behind a URL may be: folders of the layouts of the field, which cannot be listed."""

from pathlib import PurePosixPath

from labels.image_folders import is_label_folder
from labels.split_names import parse_split
from server.jobs.sources import addresses


def get_split(address: str) -> str:
    """Returns the split that a list describes by its name."""
    return parse_split(PurePosixPath(addresses.get_name(address) or "list")).name


def list_remote_folders(address: str, split: str) -> list[str]:
    """Returns the folders that the names in a list are relative to, in the order in which they are tried."""
    folder = addresses.get_parent(address)
    above = addresses.get_parent(folder)
    places = [folder, above] if is_label_folder(addresses.get_name(folder)) else [folder]
    own = [f"{place}/{name}" for place in places for name in (f"images/{split}", split)] if split else []
    images = [f"{place}/images" for place in places]
    return list(dict.fromkeys([folder, *own, *images, *places]))
