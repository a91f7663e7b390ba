"""The model on one device: images to features, prompts to encoder states, then one token per step."""

import time

import torch
from torch import Tensor

from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.decoder import BatchDecoder, group_rows_by_adapter
from server.engine.decoding.token_selection import TokenSelector
from server.engine.model.feature_cache import FeatureCache
from server.engine.model.linear import AdapterRows
from server.engine.sequence import Sequence

MAX_VISION_BATCH = 4  # images; the first stage of DaViT needs much memory per image


class PhaseSeconds:
    """Time spent in each phase, in seconds."""

    def __init__(self) -> None:
        self.vision = self.encode = self.decode = 0.0


class ModelRunner:
    """Runs one model on one device, from one thread."""

    def __init__(self, checkpoint: Checkpoint, max_batch: int, cache: FeatureCache) -> None:
        """`cache`: the feature cache of the device, which other runners on the device may share."""
        self.checkpoint, self.model, self.cache = checkpoint, checkpoint.model, cache
        selector = TokenSelector(
            checkpoint.unused_tokens, checkpoint.location_ids, checkpoint.generation.no_repeat_ngram_size
        )
        self.decoder = BatchDecoder(self.model, selector, max_batch)
        self.seconds = PhaseSeconds()
        self.images = 0  # encoded so far

    def has_features(self, sequence: Sequence) -> bool:
        """Returns whether the features of the image are cached."""
        return sequence.image_key in self.cache

    def claim_image(self, sequence: Sequence) -> bool:
        """Returns False while another runner encodes the image: the sequence should wait for its features."""
        return self.cache.claim(sequence.image_key, self)

    @torch.inference_mode()
    def add(self, sequences: list[Sequence]) -> None:
        """Encodes images and prompts and adds the sequences to the decoder. If this raises, `remove` undoes it."""
        start = time.monotonic()
        try:
            features = self._get_features(sequences)
        finally:
            for sequence in sequences:
                self.cache.release(sequence.image_key, self)
        vision_end = self._synchronize()
        prompts = [sequence.prompt for sequence in sequences]
        adapters = group_rows_by_adapter([sequence.adapter_key for sequence in sequences], self.model.device)
        states, lengths = self.model.encode_prompts(features, prompts, adapters)
        encode_end = self._synchronize()
        self.seconds.vision += vision_end - start
        self.seconds.encode += encode_end - vision_end
        by_beams: dict[int, list[int]] = {}
        for i, sequence in enumerate(sequences):
            by_beams.setdefault(sequence.num_beams, []).append(i)
        for indices in by_beams.values():
            whole = len(indices) == len(sequences)
            own = states if whole else states[torch.tensor(indices, device=states.device)]
            self.decoder.add([sequences[i] for i in indices], own, [lengths[i] for i in indices])
        self.seconds.decode += self._synchronize() - encode_end
        for sequence in sequences:
            sequence.encoded_at = encode_end

    def step(self) -> None:
        """Generates one more token for every sequence."""
        start = time.monotonic()
        self.decoder.step()
        self.seconds.decode += self._synchronize() - start

    def remove(self, sequence: Sequence) -> None:
        """Frees the KV cache slot of a sequence, if it has one."""
        self.decoder.remove(sequence)

    def _get_features(self, sequences: list[Sequence]) -> Tensor:
        """Returns image features [sequences, image tokens, d]. Encodes each new image once."""
        features: dict[bytes, Tensor | None] = {}
        new: dict[str | None, list[Sequence]] = {}  # by the adapter of the vision encoder
        for sequence in sequences:
            key = sequence.image_key
            if key in features:
                self.cache.count_hit()
                continue
            cached = self.cache.get(key)
            if cached is None:
                new.setdefault(sequence.vision_adapter_key, []).append(sequence)
            features[key] = cached
        for adapter, own in new.items():
            for i in range(0, len(own), MAX_VISION_BATCH):
                batch = own[i : i + MAX_VISION_BATCH]
                for sequence, encoded in zip(batch, self._encode_images(batch, adapter), strict=True):
                    features[sequence.image_key] = encoded
                    self.cache.put(sequence.image_key, encoded)
        return torch.stack([found for s in sequences if (found := features[s.image_key]) is not None])

    def _encode_images(self, sequences: list[Sequence], adapter: str | None) -> list[Tensor]:
        """Returns the image features of each sequence, [image tokens, d]. `adapter`: of the vision encoder."""
        images = [sequence.image.pixels for sequence in sequences]
        pixels = self.checkpoint.preprocessor.normalize(images, self.model.device)
        encoded = self.model.encode_images(pixels, [AdapterRows(adapter, None)] if adapter else [])
        self.images += len(sequences)
        return [features.clone() for features in encoded]  # a view would keep the whole batch in memory

    def _synchronize(self) -> float:
        """Waits until the device is idle and returns the time."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.monotonic()
