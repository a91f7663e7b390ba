"""The loaded adapters of a model: added to its layers and removed from them while requests run."""

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from server.engine.adapters.class_list import ClassListFileError, read_class_list
from server.engine.adapters.errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterSuspendedError,
    UnknownAdapterError,
)
from server.engine.adapters.lora import LoraPair, read_lora
from server.engine.calibration import Calibration, CalibrationError, read_calibration
from server.engine.model.florence2 import Florence2
from server.engine.model.linear import LoraDelta, LoraLinear
from server.engine.task_tokens import read_task_tokens

MAX_RELATIVE_NORM = 1e4
"""Of the change of a module's weights. Trained adapters have less than 10; far above this limit, fp32 overflows."""
MAX_NORM = 1e6
"""Of each half of a LoRA pair, and of its scale: their products are computed one by one."""
MAX_FAILURES = 3
"""Failed prompts in a row after which an adapter is suspended."""
SUSPENSION = 30.0
"""Seconds in which a suspended adapter answers no prompts. Then one is tried."""
_VISION_PREFIXES = ("model.vision_tower.", "model.multi_modal_projector.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter.

    `key`: identifies its deltas in the layers; unique for every load. `sha256`: of the weight file. `bytes`: its memory
    on each device. `modules`: the number of adapted modules. `rank`: the largest rank. `adapts_vision`: whether it
    changes image features. `calibration`: of its scores, if it has one. `class_list`: the classes that it was trained
    on; empty: not known. `task_tokens`: of tasks besides those of the table, which its files name.
    """

    name: str
    key: str
    sha256: str
    bytes: int
    modules: int
    rank: int
    adapts_vision: bool
    calibration: Calibration | None = None
    class_list: tuple[str, ...] = ()
    task_tokens: frozenset[str] = frozenset()

    @property
    def vision_key(self) -> str | None:
        """`key` if image features depend on the adapter, otherwise None."""
        return self.key if self.adapts_vision else None


class AdapterRegistry:
    """Loads and unloads adapters, and counts the requests that use them. Thread safe, also while the model runs.

    A request uses its adapter from `acquire` to `release`. When an adapter is unloaded or replaced, new requests cannot
    acquire it, but it stays in the layers until its last request releases it.
    """

    def __init__(self, models: Sequence[Florence2], base_sha256: str, capacity: int) -> None:
        """`models`: one copy of the model per device. `base_sha256`: the hash of its weights. `capacity`: memory for
        all adapters in each copy, in bytes."""
        self.models, self.base_sha256, self.capacity = models, base_sha256, capacity
        self._targets, self._dtype = [model.get_lora_targets() for model in models], models[0].dtype
        self._by_name: dict[str, Adapter] = {}
        self._by_key: dict[str, Adapter] = {}  # all adapters in the layers
        self._users = Counter[str]()  # requests by key
        self._failures = Counter[str]()  # failed prompts since the last answer, by key
        self._suspended_until: dict[str, float] = {}  # by key, in seconds of `time.monotonic`
        self._norms: dict[str, float] = {}  # of the weights of each module
        self._numbers = itertools.count(1)
        self._lock, self._load_lock = threading.Lock(), threading.Lock()

    def load(self, name: str, folder: Path, sha256: str | None = None) -> Adapter:
        """Loads the adapter in a folder, and replaces one with the same name.

        `sha256`: the expected hash of its weight file. Raises AdapterError, and then changes nothing.
        """
        with self._load_lock:  # one load at a time, so that at most one adapter exceeds the capacity temporarily
            pairs, file_sha256 = read_lora(folder, self._targets[0], self.base_sha256, self.capacity)
            if sha256 is not None and sha256.lower() != file_sha256:
                raise AdapterError(f"its weights have the SHA-256 {file_sha256}, not {sha256}; copy the folder again")
            try:
                calibration = read_calibration(folder, file_sha256)
                class_list = read_class_list(folder)
            except (CalibrationError, ClassListFileError) as error:
                raise AdapterError(str(error)) from error
            size = sum(pair.a.numel() + pair.b.numel() for pair in pairs.values()) * self._dtype.itemsize
            self._check_capacity(name, size)
            deltas = self._build_deltas(pairs)  # for every device, before the first layer changes
            for path, pair in pairs.items():
                self._check_norm(path, pair)
            adapter = Adapter(
                name=name,
                key=f"{name}#{next(self._numbers)}",
                sha256=file_sha256,
                bytes=size,
                modules=len(pairs),
                rank=max(len(pair.a) for pair in pairs.values()),
                adapts_vision=any(path.startswith(_VISION_PREFIXES) for path in pairs),
                calibration=calibration,
                class_list=class_list,
                task_tokens=read_task_tokens(folder),
            )
            for layer, own in deltas.items():
                layer.deltas[adapter.key] = own
            with self._lock:
                old = self._by_name.get(name)
                self._by_name[name] = self._by_key[adapter.key] = adapter
                if old:
                    self._remove_if_unused(old)
        return adapter

    def unload(self, name: str) -> None:
        """Unloads an adapter for new requests. Raises UnknownAdapterError."""
        with self._lock:
            adapter = self._get(name)
            del self._by_name[name]
            self._remove_if_unused(adapter)

    def list_loaded(self) -> list[Adapter]:
        """Returns the adapters that requests can acquire, sorted by name."""
        with self._lock:
            return [self._by_name[name] for name in sorted(self._by_name)]

    def acquire(self, name: str) -> Adapter:
        """Returns the adapter with this name for one request. Raises UnknownAdapterError or AdapterSuspendedError."""
        with self._lock:
            adapter = self._get(name)
            if (failures := self._failures[adapter.key]) >= MAX_FAILURES:
                now = time.monotonic()
                if (wait := self._suspended_until.get(adapter.key, now) - now) > 0:
                    raise AdapterSuspendedError(name, failures, wait)
                self._suspended_until[adapter.key] = now + SUSPENSION  # the others wait for this request
            self._users[adapter.key] += 1
            return adapter

    def release(self, key: str) -> None:
        """Ends the use of an acquired adapter."""
        with self._lock:
            self._users[key] -= 1
            self._remove_if_unused(self._by_key[key])

    def record_outcome(self, key: str, *, failed: bool) -> None:
        """Records whether a prompt of an adapter failed for a reason of its own, or was answered."""
        with self._lock:
            if key not in self._by_key:
                return
            if not failed:
                self._failures.pop(key, None)
                self._suspended_until.pop(key, None)
                return
            self._failures[key] += 1
            if self._failures[key] >= MAX_FAILURES:
                self._suspended_until[key] = time.monotonic() + SUSPENSION

    def _get(self, name: str) -> Adapter:
        if name not in self._by_name:
            raise UnknownAdapterError(
                f"no adapter {name!r} is loaded; loaded adapters: {', '.join(sorted(self._by_name)) or 'none'}"
            )
        return self._by_name[name]

    def _remove_if_unused(self, adapter: Adapter) -> None:
        """Removes an adapter from the layers, unless requests use it or can still acquire it."""
        if self._users[adapter.key] or self._by_name.get(adapter.name) is adapter:
            return
        for targets in self._targets:
            for layer, _ in targets.values():
                layer.deltas.pop(adapter.key, None)
        del self._by_key[adapter.key], self._users[adapter.key]
        self._failures.pop(adapter.key, None)
        self._suspended_until.pop(adapter.key, None)

    def _check_capacity(self, name: str, size: int) -> None:
        with self._lock:
            old = self._by_name.get(name)
            freed = old.bytes if old and not self._users[old.key] else 0
            available = self.capacity - sum(adapter.bytes for adapter in self._by_key.values()) + freed
        if size > available:
            raise AdapterCapacityError(
                f"it needs {size:,} bytes, and {max(0, available):,} of {self.capacity:,} are free; unload another "
                "adapter, or increase --max-adapter-bytes"
            )

    def _check_norm(self, path: str, pair: LoraPair) -> None:
        """Raises AdapterError for a pair that would make the model overflow: ‖scale · B A‖ is at most the product of
        the norms."""
        if path not in self._norms:
            layer, first = self._targets[0][path]
            weight = layer.weight[first : first + len(pair.b)]
            self._norms[path] = _compute_norm(weight)
        sizes = [abs(pair.scale), _compute_norm(pair.a), _compute_norm(pair.b)]
        change, limit = math.prod(sizes), MAX_RELATIVE_NORM * max(self._norms[path], 1.0)
        if not (max(sizes) <= MAX_NORM and change <= limit):
            raise AdapterError(
                f"{path} changes its weights, whose norm is {self._norms[path]:.3g}, by up to {change:.3g}; the limit "
                f"is {limit:.3g}: the training diverged, or the alpha is too large, so train it again"
            )

    def _build_deltas(self, pairs: Mapping[str, LoraPair]) -> dict[LoraLinear, list[LoraDelta]]:
        """Copies the pairs to the device and dtype of each model. Returns them by layer."""
        deltas: dict[LoraLinear, list[LoraDelta]] = {}
        for model, targets in zip(self.models, self._targets, strict=True):
            for path, (a, b, scale) in pairs.items():
                layer, first_output = targets[path]
                try:
                    a, b = (half.detach().to(model.device, self._dtype).contiguous() for half in (a, b))
                except RuntimeError as error:
                    raise AdapterError(f"it does not fit into the memory of {model.device}: {error}") from error
                if not all(half.isfinite().all() for half in (a, b)):
                    raise AdapterError(f"{path} has weights that are not finite in {self._dtype}; train it again")
                deltas.setdefault(layer, []).append(LoraDelta(first_output, a, b, scale))
        return deltas


def _compute_norm(weights: Tensor) -> float:
    return float(weights.detach().double().norm())
