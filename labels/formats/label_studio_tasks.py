"""Reads tasks of Label Studio: which annotation of a task counts, and which of its images a result is about."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from labels.image_suffixes import is_image_suffix
from labels.reading import documents
from labels.reading.checks import LabelError

CONFIG = "label_config.xml"
_UPLOAD = re.compile("[0-9a-f]{8}-")
_LOCAL = re.compile("[?&]d=([^&]+)")  # the path of a file of local storage
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChosenAnnotation:
    """The annotation of a task that counts. `left_out` names the others of the task, and says why they do not."""

    results: Any
    left_out: tuple[tuple[str, str], ...] = ()


def choose_annotation(task: Mapping[str, Any]) -> ChosenAnnotation:
    """Returns the annotation that is marked as ground truth or else the newest one; the newest prediction if nobody has
    annotated the task. Its results are not checked.

    Raises LabelError if there is none.
    """
    annotations = [*_select_dicts(task.get("annotations")), *_select_dicts(task.get("completions"))]
    if submitted := [each for each in annotations if not each.get("was_cancelled")]:
        truths = [each for each in submitted if each.get("ground_truth") is True]
        return _choose(submitted, truths or submitted, "annotation")
    if annotations:
        raise LabelError("it was skipped: its annotation is cancelled")
    if predictions := [each for each in _select_dicts(task.get("predictions")) if not each.get("was_cancelled")]:
        return _choose(predictions, predictions, "prediction")
    if _select_dicts(task.get("drafts")):
        raise LabelError("nobody has annotated it: it has only a draft that was not submitted")
    raise LabelError("nobody has annotated it")


def _choose(all_of_task: list[Result], candidates: list[Result], what: str) -> ChosenAnnotation:
    chosen = max(candidates, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
    reason = f"another {what} of the task counts: the ground truth, or else the newest"
    others = [
        (f"{what} {each.get('id', position)}", reason)
        for position, each in enumerate(all_of_task, start=1)
        if each is not chosen
    ]
    results = chosen.get("result")
    return ChosenAnnotation("" if results is None else results, tuple(others))


class TaskImages:
    """Which value of a task's data is the image that a result names in `to_name`.

    An export does not contain its labeling configuration. Without `label_config.xml` beside the export, an image has
    the name of its value, as in Label Studio's templates, or is the only one of the task.
    """

    def __init__(self, export: Path, tasks: Iterable[Any]) -> None:
        """Reads the configuration beside an export. Raises DatasetError if it cannot be read."""
        self._keys = _read_config(export.parent / CONFIG)
        drawn_on, named = set[str](), set[str]()
        for result in (result for task in tasks for result in _iter_results(task)):
            name = result.get("to_name")
            if isinstance(name, str) and name and (not self._keys or name in self._keys):
                key = self._keys.get(name, name)
                named.add(key)
                if has_place(result.get("value")):
                    drawn_on.add(key)
        self.drawn_on = drawn_on
        """Keys of the images with shapes in some task."""
        self._named = named | set(self._keys.values()) if len(self._keys) == 1 else named

    def list_images(self, data: Mapping[str, Any]) -> dict[tuple[str, int], str]:
        """Returns the addresses of the images that were labeled in a task, by the key and the page of their value.

        Raises LabelError if the images cannot be told from others.
        """
        values = {key: pages for key, value in data.items() if (pages := _list_pages(value))}
        images = {key: pages for key, pages in values.items() if all(map(_has_suffix, pages))} or values
        if not images:
            raise LabelError("its data names no image")
        keys = (self.drawn_on & values.keys()) | (self._named & (values if self._keys else images).keys())
        if not keys:
            names = {page if is_embedded(page) else _to_file_name(page) for pages in images.values() for page in pages}
            if len(images) > 1 and len(names) > 1:
                raise LabelError(
                    f"its data names several images ({', '.join(images)}), and no result says which one is labeled: "
                    f"save the labeling configuration as {CONFIG} beside the export"
                )
            keys = {next(iter(images))}
        return {(key, page): address for key in values if key in keys for page, address in enumerate(values[key])}

    def find_image(self, result: Result, images: Mapping[tuple[str, int], str]) -> tuple[str, int]:
        """Returns the key and page of the image that a result is about. Raises LabelError if that is unknown."""
        name, page = result.get("to_name"), result.get("item_index")
        key = self._keys.get(name, name) if isinstance(name, str) else None
        keys = {each for each, _ in images}
        if key not in keys:
            if len(keys) > 1 or (self._keys and key is not None):
                raise LabelError(
                    f"it is about {name!r}, and the images of its task are {', '.join(sorted(keys))}: save the "
                    f"labeling configuration as {CONFIG} beside the export"
                )
            (key,) = keys
        pages = [number for each, number in images if each == key]
        if page is None and len(pages) == 1:
            return key, pages[0]
        if isinstance(page, bool) or page not in pages:
            raise LabelError(f"its item_index is {page!r}, and its task has {len(pages)} images")
        return key, page


def has_place(value: Any) -> bool:
    """Returns whether the value of a result has a place in the image, as those of regions do."""
    return isinstance(value, dict) and bool(value.keys() & {"points", "x", "rle"})


def is_embedded(address: str) -> bool:
    """Returns whether an address is a data URI, which contains the image."""
    return address.startswith("data:")


def to_path(address: str) -> str:
    """Returns the path in an address, as Label Studio reads it."""
    return list_paths(address)[0]


def list_paths(address: str) -> list[str]:
    """Returns the paths that an address may mean: of a URL, of local storage, or of a bucket, where names are as they
    are. The most likely is first; the others are of addresses that people have written without quoting them."""
    scheme, found, rest = address.partition("://")
    if found and scheme.casefold() not in ("http", "https", "file"):
        return ["/" + rest.partition("/")[2]]
    if local := _LOCAL.search(address):
        return list(dict.fromkeys((unquote_plus(local[1].partition("#")[0]), unquote(local[1]))))
    try:
        path = unquote(urlsplit(address).path)
    except ValueError:
        return [address]
    whole = rest.partition("/")[2] if found else address
    if is_image_suffix(path) is not True and is_image_suffix(whole):  # such as a#1.jpg
        path = unquote(whole)
    return [path] if found else list(dict.fromkeys((path, address)))


def _read_config(path: Path) -> dict[str, str]:
    """Returns the key in a task's data for the name of each image; empty if there is no configuration."""
    if not path.is_file():
        return {}
    keys = dict[str, str]()
    for element in documents.load_xml(path).iter("Image"):
        value = element.get("value") or element.get("valueList") or ""
        if (name := element.get("name")) and value.startswith("$"):
            keys[name] = value[1:]
    return keys


def _iter_results(task: Any) -> Iterator[Result]:
    """Yields the results that count."""
    try:
        results = choose_annotation(task).results if isinstance(task, dict) else []
    except LabelError:
        return
    yield from _select_dicts(results)


def _list_pages(value: Any) -> list[str]:
    """Returns the addresses in a value of a task's data: one, or a list of pages."""
    pages = value if isinstance(value, list) else [value]
    return pages if all(_is_text(page) for page in pages) else []


def _has_suffix(address: str) -> bool:
    return is_embedded(address) or is_image_suffix(to_path(address)) is True


def _to_file_name(address: str) -> str:
    """Returns the name of the file in an address, without the prefix of an upload."""
    return _UPLOAD.sub("", to_path(address).replace("\\", "/").rpartition("/")[2], count=1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _select_dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
