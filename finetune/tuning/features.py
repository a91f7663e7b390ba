"""Image features that are kept: what the frozen stages of the vision say about a picture is the same at every epoch."""

import torch
from torch import Tensor

BYTES = 4 << 30


class Features:
    """By view; what finds no room is computed anew. In the type they were computed in, so they change nothing."""

    def __init__(self, most: int = BYTES) -> None:
        self.most, self.bytes = most, 0
        self._kept: dict[int, Tensor] = {}

    def missing(self, views: list[int]) -> list[int]:
        """The places in `views` whose features are not kept; of several alike, the first."""
        seen = set(self._kept)
        return [i for i, view in enumerate(views) if not (view in seen or seen.add(view))]  # type: ignore[func-returns-value]

    def join(self, views: list[int], places: list[int], computed: Tensor | None) -> Tensor:
        """Features [b, …] of `views`: those computed for `places`, the rest as kept."""
        fresh = dict(zip((views[i] for i in places), computed if computed is not None else (), strict=True))
        for view, value in fresh.items():
            if self.bytes + value.nbytes <= self.most:
                self._kept[view] = value.detach().clone()
                self.bytes += value.nbytes
        return torch.stack([fresh[view] if view in fresh else self._kept[view] for view in views])
