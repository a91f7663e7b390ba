"""The model at work on sequences: pictures to features, prompts to states, states to slots, a token a step."""

import time
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from server.engine.checkpoint import Checkpoint
from server.engine.decoding.decoder import Decoder, Member, shares_of
from server.engine.decoding.token_selection import Chooser
from server.engine.features import FeatureCache
from server.engine.linear import Share
from server.engine.sequence import Sequence

PICTURES = 4  # to the vision tower at once: DaViT's first stage holds a fat activation a picture


class Seconds:
    """What the worker's time went to."""

    def __init__(self) -> None:
        self.vision = self.encode = self.decode = 0.0


class Runner:
    """One model on one device, for one thread."""

    def __init__(self, checkpoint: Checkpoint, slots: int, cache: FeatureCache) -> None:
        """`cache`: of this device; others on it may share it."""
        self.checkpoint, self.model, self.cache = checkpoint, checkpoint.model, cache
        chooser = Chooser(checkpoint.unused, checkpoint.locations, checkpoint.generation.no_repeat_ngram_size)
        self.decoder = Decoder(self.model, chooser, slots)
        self.seconds = Seconds()
        self.pictures = 0
        self._members: dict[Sequence, Member] = {}

    def seen(self, sequence: Sequence) -> bool:
        """Whether the tower need not look at its picture."""
        return sequence.picture in self.cache

    def claim(self, sequence: Sequence) -> bool:
        """Whether to take it in now; not while another runner is looking at its picture."""
        return self.cache.claim(sequence.picture, self)

    @torch.inference_mode()
    def enter(self, sequences: Many[Sequence]) -> None:
        """Takes sequences into the decoder."""
        began = time.monotonic()
        try:
            features = self._features(sequences)
        finally:
            for sequence in sequences:
                self.cache.release(sequence.picture, self)
        looked = self._now()
        prompts, adapters = [s.plan.prompt for s in sequences], [s.adapter for s in sequences]
        states, lengths = self.model.read(features, prompts, shares_of(adapters, self.model.device))
        self.seconds.encode += self._now() - looked
        self.seconds.vision += looked - began
        kinds: dict[tuple[int, int], list[int]] = {}
        for i, sequence in enumerate(sequences):
            self._members[sequence] = sequence.member
            kinds.setdefault(sequence.member.kind, []).append(i)
        encoded = time.monotonic()
        for places in kinds.values():
            own = states if len(places) == len(sequences) else states[torch.tensor(places, device=states.device)]
            self.decoder.enter([sequences[i].member for i in places], own, [lengths[i] for i in places])
        now = self._now()
        self.seconds.decode += now - encoded
        for sequence in sequences:
            sequence.encoded = encoded

    def step(self) -> None:
        """One more token for all, or some where they are drafted."""
        began = time.monotonic()
        self.decoder.step()
        self.seconds.decode += self._now() - began

    def leave(self, sequence: Sequence) -> None:
        """Frees what the sequence holds; one that holds nothing is no error."""
        if member := self._members.pop(sequence, None):
            self.decoder.leave(member)

    def _features(self, sequences: Many[Sequence]) -> Tensor:
        """[sequences, image tokens, d]; each picture is looked at once, whoever asks about it."""
        found: dict[bytes, Tensor | None] = {}
        new: dict[str | None, list[Sequence]] = {}  # by the adapter that changes the tower
        for sequence in sequences:
            key = sequence.picture
            if key in found:
                self.cache.count_hit()
                continue
            kept = self.cache.get(key)
            if kept is None:
                new.setdefault(sequence.tower, []).append(sequence)
            found[key] = kept
        for tower, own in new.items():
            shares = [Share(tower, None)] if tower else []
            for i in range(0, len(own), PICTURES):
                part = own[i : i + PICTURES]
                pixels = self.checkpoint.preprocessing.normalise(
                    [s.plan.picture.pixels for s in part], self.model.device
                )
                looked = self.model.look(pixels, shares)
                self.pictures += len(part)
                for sequence, features in zip(part, looked, strict=True):
                    own_features = features.clone()  # a view would hold the whole batch
                    found[sequence.picture] = own_features
                    self.cache.put(sequence.picture, own_features)
        return torch.stack([features for s in sequences if (features := found[s.picture]) is not None])

    def _now(self) -> float:
        """The time, when the device has done what it was asked."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.monotonic()
