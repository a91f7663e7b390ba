"""The baseline: transformers' own Florence-2 on the same checkpoint files, with its fastest settings."""

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

from benchmarks.workloads import get_image
from prompts.special_tokens import BOS, EOS, IMAGE
from server.engine.checkpoints.loading import Checkpoint
from server.engine.request import Request

logging.disable_progress_bar()
logging.set_verbosity_error()


class TransformersBaseline:
    """The model in `dtype`, with the attention implementation that is faster on this machine.

    Answers are token IDs after the decoder's start token, without padding, like the engine's.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, adapters: dict[str, str] | None = None) -> None:
        """`adapters` maps names to PEFT folders; one of them is active at a time."""
        self.checkpoint, self.dtype = checkpoint, dtype
        model = Florence2ForConditionalGeneration.from_pretrained(checkpoint.folder, dtype=dtype).eval()
        self.model = self.base_model = model
        if adapters:
            from peft import PeftModel

            first, *others = adapters
            self.model = PeftModel.from_pretrained(model, adapters[first], adapter_name=first).eval()
            for name in others:
                self.model.load_adapter(adapters[name], name)
        p = checkpoint.preprocessor
        size = {"height": p.height, "width": p.width}
        self._image_processor = CLIPImageProcessorPil(
            size=size, crop_size=size, do_center_crop=False, resample=p.resample, image_mean=p.mean, image_std=p.std
        )
        self.attention = ""

    @torch.inference_mode()
    def select_attention(self, images: Sequence[Image]) -> None:
        """Chooses sdpa or eager attention for the vision encoder, whichever encodes these images faster.

        It also warms the model up.
        """
        pixels = self._to_pixels(images)
        seconds = {}
        for attention in ("sdpa", "eager"):
            self._set_attention(attention)
            for _ in range(2):
                start = time.perf_counter()
                self.base_model.model.get_image_features(pixels)
                seconds[attention] = time.perf_counter() - start
        self._set_attention(min(seconds, key=seconds.__getitem__))

    def _set_attention(self, attention: str) -> None:
        self.attention = attention
        self.base_model.set_attn_implementation({"vision_config": attention, "text_config": "sdpa"})

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Returns image features [n, image tokens, d]."""
        return self.base_model.model.get_image_features(self._to_pixels(images)).pooler_output

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], features: Tensor | None = None, **settings: Any) -> list[list[int]]:
        """Answers all requests in one batch, padded on the right; the longest answer ends it.

        `features` [n, image tokens, d] are those of the images, if they are known. `settings` override the
        checkpoint's settings of `generate`.
        """
        c = self.checkpoint.generation
        prompts = [r.task.build_prompt(r.text, r.region, r.image.size) for r in requests]
        image = IMAGE * self.checkpoint.image_tokens
        encode = self.checkpoint.tokenizer.backend.encode
        ids = [torch.tensor(encode(image + BOS + p + EOS, add_special_tokens=False).ids) for p in prompts]
        images: dict[str, Any]
        if features is None:
            images = {"pixel_values": self._to_pixels([get_image(r) for r in requests])}
        else:
            images = {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}
        # A loaded checkpoint always has a limit.
        limits = [r.max_new_tokens or c.max_new_tokens or self.checkpoint.max_new_tokens for r in requests]
        inputs = {
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
        out = self.model.generate(**images, **(inputs | settings))[:, 1:]
        return [_truncate(row, limit, c.eos_token_id) for row, limit in zip(out.tolist(), limits, strict=True)]

    def generate_one_by_one(self, requests: Sequence[Request]) -> list[list[int]]:
        """Answers one request at a time, as a simple script does."""
        return [self.generate([request])[0] for request in requests]

    def generate_sharing_features(self, requests: Sequence[Request]) -> list[list[int]]:
        """Answers one request at a time; consecutive requests with the same image share its features."""
        answers: list[list[int]] = []
        last: tuple[object, Tensor] | None = None
        for request in requests:
            if last is None or last[0] is not request.image:
                last = request.image, self.encode_images([get_image(request)])
            answers += self.generate([request], last[1])
        return answers

    def generate_batches(
        self,
        requests: Sequence[Request],
        size: int,
        sort_key: Callable[[Request], Any] | None = None,
        *,
        share_features: bool = False,
    ) -> list[list[int]]:
        """Answers in batches of `size`, after sorting by `sort_key` if given; answers keep the order of the requests.

        With `share_features`, each image of a batch is encoded once.
        """
        order = list(range(len(requests)))
        if sort_key:
            order.sort(key=lambda i: sort_key(requests[i]))
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            batch = [requests[i] for i in positions]
            features = self._encode_shared(batch) if share_features else None
            answers |= zip(positions, self.generate(batch, features), strict=True)
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _encode_shared(self, requests: Sequence[Request]) -> Tensor:
        groups: dict[int, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            groups[id(request.image)].append(i)
        features = self.encode_images([get_image(requests[group[0]]) for group in groups.values()])
        row_of = {i: n for n, group in enumerate(groups.values()) for i in group}
        return features[[row_of[i] for i in range(len(requests))]]

    def _to_pixels(self, images: Sequence[Image]) -> Tensor:
        processed: BatchFeature = self._image_processor(list(images), return_tensors="pt")
        return processed["pixel_values"].to(self.dtype)


def _truncate(row: list[int], limit: int, eos: int) -> list[int]:
    """Returns an answer up to its end token."""
    row = row[:limit]
    return row[: row.index(eos) + 1] if eos in row else row
