"""Image features that are kept: what the frozen stages of the vision say about a picture is the same at every epoch."""

from collections.abc import Callable

from torch import Tensor

BYTES = 4 << 30


class Features:
    """By view; what finds no room is computed anew. In the type they were computed in, and each picture by itself,
    whichever others it is shown with: kept or not, they are the same to the bit. Threads may share it."""

    def __init__(self, most: int = BYTES) -> None:
        self.most = most
        self.kept: dict[int, Tensor] = {}

    def get(self, view: int, compute: Callable[[], Tensor]) -> Tensor:
        """The features of a view, as kept or computed."""
        if (found := self.kept.get(view)) is not None:
            return found
        made = compute().detach()
        if (len(self.kept) + 1) * made.nbytes <= self.most:
            self.kept[view] = made
        return made
