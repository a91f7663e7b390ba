"""transformers' own Florence-2 on a checkpoint's files: what the engine is measured against, itself tuned."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, CLIPImageProcessorPil, Florence2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from prompts.special_tokens import BOS, EOS, IMAGE
from server.engine.checkpoints.loading import Checkpoint
from server.engine.request import Request

PATIENCE = 120.0  # seconds that compiling may take
logging.disable_progress_bar()
logging.set_verbosity_error()


class Transformers:
    """The model in `dtype`, with the attention that is faster here, and its processor's work done as it does it.

    Answers are ids after the decoder's start token, without padding, as the engine's are.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, adapters: dict[str, str] | None = None) -> None:
        """`adapters`: name → folder of PEFT's, of which `answer` takes one at a time."""
        self.checkpoint, self.dtype = checkpoint, dtype
        network = Florence2ForConditionalGeneration.from_pretrained(checkpoint.folder, dtype=dtype).eval()
        self.network = self.base = network
        if adapters:
            from peft import PeftModel

            first, *others = adapters
            self.network = PeftModel.from_pretrained(network, adapters[first], adapter_name=first).eval()
            for name in others:
                self.network.load_adapter(adapters[name], name)
        p = checkpoint.preprocessor
        size = {"height": p.height, "width": p.width}
        self._pictures = CLIPImageProcessorPil(
            size=size, crop_size=size, do_center_crop=False, resample=p.resample, image_mean=p.mean, image_std=p.std
        )
        self.attention = ""

    @torch.inference_mode()
    def tune(self, images: Sequence[Image]) -> None:
        """Chooses the tower's attention: sdpa or eager, whichever looks at these pictures faster. A warm-up too."""
        pixels = self._pixels(images)
        took = {}
        for attention in ("sdpa", "eager"):
            self._attend(attention)
            for _ in range(2):
                start = time.perf_counter()
                self.base.model.get_image_features(pixels)
                took[attention] = time.perf_counter() - start
        self._attend(min(took, key=took.__getitem__))

    def _attend(self, attention: str) -> None:
        self.attention = attention
        self.base.set_attn_implementation({"vision_config": attention, "text_config": "sdpa"})

    @torch.inference_mode()
    def look(self, images: Sequence[Image]) -> Tensor:
        """Image features [n, image tokens, d]."""
        return self.base.model.get_image_features(self._pixels(images)).pooler_output

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], features: Tensor | None = None, **settings: Any) -> list[list[int]]:
        """All of them in one batch, padded on the right; the longest answer ends it. `features` [n, image tokens, d]:
        of their pictures, where they are there already; `settings`: of `generate`, on top of the checkpoint's."""
        c = self.checkpoint.generation
        words = [r.task.build_prompt(r.text, r.region, r.image.size) for r in requests]
        image = IMAGE * self.checkpoint.image_tokens
        encode = self.checkpoint.tokenizer.backend.encode
        ids = [torch.tensor(encode(image + BOS + w + EOS, add_special_tokens=False).ids) for w in words]
        seen: dict[str, Any]
        if features is None:
            seen = {"pixel_values": self._pixels([r.image for r in requests])}
        else:
            seen = {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}
        limits = [r.max_new_tokens or c.max_new_tokens for r in requests]
        given = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=1),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "num_beams": requests[0].num_beams or c.num_beams,
            "max_new_tokens": max(limits),
            "no_repeat_ngram_size": c.no_repeat_ngram_size,
            "early_stopping": c.early_stopping,
            "length_penalty": c.length_penalty,
            "forced_bos_token_id": c.forced_bos_token_id,
            "forced_eos_token_id": c.forced_eos_token_id,
            "do_sample": False,
        }
        out = self.network.generate(**seen, **(given | settings))[:, 1:]
        return [_cut(row, limit, c.eos_token_id) for row, limit in zip(out.tolist(), limits, strict=True)]

    def one_at_a_time(self, requests: Sequence[Request]) -> list[list[int]]:
        """What a plain script does."""
        return [self.answer([request])[0] for request in requests]

    def one_at_a_time_sharing(self, requests: Sequence[Request]) -> list[list[int]]:
        """What a careful script does: neighbours that ask about one picture share its features."""
        answers: list[list[int]] = []
        kept: tuple[object, Tensor] | None = None
        for request in requests:
            if kept is None or kept[0] is not request.image:
                kept = request.image, self.look([request.image])
            answers += self.answer([request], kept[1])
        return answers

    def batched(
        self, requests: Sequence[Request], size: int, by: Callable[[Request], Any] | None = None, *, share: bool = False
    ) -> list[list[int]]:
        """In batches of `size`, sorted by `by` first where it is given; the answers stand in the requests' order.

        `share`: each picture of a batch is looked at once, whichever of its requests ask about it.
        """
        order = sorted(range(len(requests)), key=lambda i: by(requests[i])) if by else list(range(len(requests)))
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), size):
            places = order[start : start + size]
            part = [requests[i] for i in places]
            answers |= zip(places, self.answer(part, self._shared(part) if share else None), strict=True)
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _shared(self, requests: Sequence[Request]) -> Tensor:
        owners: dict[int, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            owners[id(request.image)].append(i)
        looked = self.look([requests[own[0]].image for own in owners.values()])
        places = {i: n for n, own in enumerate(owners.values()) for i in own}
        return looked[[places[i] for i in range(len(requests))]]

    def _pixels(self, images: Sequence[Image]) -> Tensor:
        made: BatchFeature = self._pictures(list(images), return_tensors="pt")
        return made["pixel_values"].to(self.dtype)


def _cut(row: list[int], limit: int, eos: int) -> list[int]:
    """An answer without what follows its end."""
    row = row[:limit]
    return row[: row.index(eos) + 1] if eos in row else row
