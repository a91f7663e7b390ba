"""What a job leaves: pictures, each with its labels and where every label came from."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prompts.annotations import Annotation


@dataclass(frozen=True, slots=True)
class Label:
    """One annotation in its picture's pixels, and where it came from.

    `step`: the recipe step's id; `prompt`: the words that the model read; `raw`: its whole answer, location tokens and
    all; `model`, `adapter`: the hashes of what answered (None: no adapter). `review`: why a person should look at it,
    empty where nobody need. `parent`: the index, among the picture's labels, of the one whose region was asked about.
    """

    annotation: Annotation
    step: str
    prompt: str = ""
    raw: str = ""
    model: str = ""
    adapter: str | None = None
    review: str = ""
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture of a dataset. `name`: where it lay in its source, a relative path with forward slashes and no `..`;
    `sha256`: of its file's bytes, in hex; `width`, `height`: as a viewer shows it, EXIF applied; `read` gives the
    file's bytes, and may raise OSError."""

    name: str
    sha256: str
    width: int
    height: int
    labels: tuple[Label, ...] = ()
    read: Callable[[], bytes] = field(default=lambda: b"", compare=False, repr=False)
