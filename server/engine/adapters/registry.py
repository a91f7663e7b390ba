"""The adapters of a model: put into its layers and taken out of them while requests run."""

import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.engine.adapters.errors import AdapterCapacityError, AdapterError, UnknownAdapterError
from server.engine.adapters.lora import LoraPair, read_lora
from server.engine.calibration import Calibration, CalibrationError, read_calibration
from server.engine.model.florence2 import Florence2
from server.engine.model.linear import LoraDelta, LoraLinear

_TOWER = ("model.vision_tower.", "model.multi_modal_projector.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One that is in the layers. `key`: its name there, which no other load ever has; `sha256`: of the weights' file;
    `modules`: how many it adapts; `rank`: the largest; `vision`: whether it changes what the model sees;
    `calibration`: of its scores, where it has one."""

    name: str
    key: str
    sha256: str
    bytes: int
    modules: int
    rank: int
    vision: bool
    calibration: Calibration | None = None

    @property
    def tower(self) -> str | None:
        """`key`, where image features depend on it."""
        return self.key if self.vision else None


class AdapterRegistry:
    """Loads, lends and unloads. Safe to use from any thread, while another runs the model.

    A request holds its adapter from `acquire` to `release`: one that is unloaded or replaced meanwhile can be asked for
    no more, but stays in the layers until nobody holds it.
    """

    def __init__(self, models: Sequence[Florence2], base: str, capacity: int) -> None:
        """`models`: the same one on each device; `base`: the hash of its weights; `capacity`: bytes that all adapters
        may take in the layers of each."""
        self.models, self.base, self.capacity = models, base, capacity
        self._places, self._dtype = [model.adaptable() for model in models], models[0].dtype
        self._named: dict[str, Adapter] = {}
        self._kept: dict[str, Adapter] = {}  # all that are in the layers, by key
        self._holders = Counter[str]()
        self._numbers = itertools.count(1)
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def load(self, name: str, folder: Path, sha256: str | None = None) -> Adapter:
        """Puts the adapter of a folder into the layers, where it replaces one of the same name.

        `sha256`: of its weights' file, where that is known. Raises AdapterError, and then changes nothing.
        """
        with self._loading:  # one at a time: so memory holds one more than there is room for at most
            pairs, found = read_lora(folder, self._places[0], self.base, self.capacity)
            if sha256 is not None and sha256.lower() != found:
                raise AdapterError(f"its weights have the SHA-256 {found}, not {sha256}; copy the folder again")
            try:
                calibration = read_calibration(folder, found)
            except CalibrationError as error:
                raise AdapterError(str(error)) from error
            size = sum(pair.a.numel() + pair.b.numel() for pair in pairs.values()) * self._dtype.itemsize
            self._check_room(name, size)
            layers = self._layers(pairs)  # on every device, before any of them has it
            adapter = Adapter(
                name=name,
                key=f"{name}#{next(self._numbers)}",
                sha256=found,
                bytes=size,
                modules=len(pairs),
                rank=max(len(pair.a) for pair in pairs.values()),
                vision=any(path.startswith(_TOWER) for path in pairs),
                calibration=calibration,
            )
            for linear, own in layers.items():
                linear.adapters[adapter.key] = own
            with self._lock:
                old = self._named.get(name)
                self._named[name] = self._kept[adapter.key] = adapter
                if old:
                    self._clear(old)
        return adapter

    def unload(self, name: str) -> None:
        """Lends it no more. Raises UnknownAdapter."""
        with self._lock:
            adapter = self._find(name)
            del self._named[name]
            self._clear(adapter)

    def loaded(self) -> list[Adapter]:
        """Those that can be asked for, by name."""
        with self._lock:
            return [self._named[name] for name in sorted(self._named)]

    def acquire(self, name: str) -> Adapter:
        """The adapter of that name, for one request. Raises UnknownAdapter."""
        with self._lock:
            adapter = self._find(name)
            self._holders[adapter.key] += 1
            return adapter

    def release(self, key: str) -> None:
        """Ends what `acquire` began."""
        with self._lock:
            self._holders[key] -= 1
            self._clear(self._kept[key])

    def _find(self, name: str) -> Adapter:
        if name not in self._named:
            raise UnknownAdapterError(
                f"no adapter {name!r} is loaded; there are: {', '.join(sorted(self._named)) or 'none'}"
            )
        return self._named[name]

    def _clear(self, adapter: Adapter) -> None:
        """Takes it out of the layers, unless a request holds it or may still ask for it."""
        if self._holders[adapter.key] or self._named.get(adapter.name) is adapter:
            return
        for places in self._places:
            for linear, _ in places.values():
                linear.adapters.pop(adapter.key, None)
        del self._kept[adapter.key], self._holders[adapter.key]

    def _check_room(self, name: str, size: int) -> None:
        with self._lock:
            old = self._named.get(name)
            leaving = old.bytes if old and not self._holders[old.key] else 0
            room = self.capacity - sum(adapter.bytes for adapter in self._kept.values()) + leaving
        if size > room:
            raise AdapterCapacityError(
                f"it takes {size:,} bytes, and {max(0, room):,} of {self.capacity:,} are left; unload another, or set "
                "--max-adapter-bytes higher"
            )

    def _layers(self, pairs: Mapping[str, LoraPair]) -> dict[LoraLinear, list[LoraDelta]]:
        """The pairs on each model's device and in its type, by the layer that computes their module."""
        layers: dict[LoraLinear, list[LoraDelta]] = {}
        for model, places in zip(self.models, self._places, strict=True):
            for path, (a, b, scale) in pairs.items():
                linear, first = places[path]
                try:
                    a, b = (half.detach().to(model.device, self._dtype).contiguous() for half in (a, b))
                except RuntimeError as error:
                    raise AdapterError(f"it does not fit into the memory of {model.device}: {error}") from error
                if not all(half.isfinite().all() for half in (a, b)):
                    raise AdapterError(f"{path} has weights that are not finite in {self._dtype}; train it again")
                layers.setdefault(linear, []).append(LoraDelta(first, a, b, scale))
        return layers
