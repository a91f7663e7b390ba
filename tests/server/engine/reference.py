"""What transformers says: the reference that the engine's tokens and scores are held against."""

from collections.abc import Sequence as Many
from functools import lru_cache
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import BatchFeature, CLIPImageProcessorPil, Florence2ForConditionalGeneration

from prompts.tasks import TASKS
from server.engine.checkpoint import Checkpoint
from server.engine.features import FeatureCache
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.engine.runner import Runner
from server.engine.sequence import Sequence, plan

# One prompt for each task; regions are shares of the picture.
TEXTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a red car left of the tree",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the bin",
    "<OPEN_VOCABULARY_DETECTION>": "the ring",
}


@lru_cache(8)
def _network(folder: Path, adapter: Path | None) -> Florence2ForConditionalGeneration | PeftModel:
    network = Florence2ForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    return (PeftModel.from_pretrained(network, adapter) if adapter else network).eval()


def network(checkpoint: Checkpoint, adapter: Path | None = None) -> Florence2ForConditionalGeneration | PeftModel:
    """transformers' own model on the same files, which must be in the native layout; PEFT's on top for an adapter."""
    return _network(checkpoint.folder, adapter)


def values(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All weights of our model."""
    return dict(checkpoint.model.named_parameters())


def answer(checkpoint: Checkpoint, asked: Request) -> Result:
    """What our model says to a request alone."""
    runner = Runner(checkpoint, 1, FeatureCache(0))
    sequence = Sequence(plan(asked, checkpoint), checkpoint, Handle(lambda _: None))
    runner.enter([sequence])
    while not sequence.read():
        runner.step()
    return sequence.result()


def request(token: str, image: Image.Image, *, beams: int | None = None, limit: int | None = None) -> Request:
    """A request for a task, with text or region where it takes one."""
    task = TASKS[token]
    width, height = image.size
    region = (width * 0.2, height * 0.3, width * 0.7, height * 0.9) if task.takes == "region" else None
    return Request(image, task, TEXTS.get(token), region, max_new_tokens=limit, num_beams=beams)


def pixel_values(checkpoint: Checkpoint, image: Image.Image) -> torch.Tensor:
    """By transformers' own image processor."""
    p = checkpoint.preprocessing
    size = {"height": p.height, "width": p.width}
    processor = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, resample=p.resample, image_mean=p.mean, image_std=p.std
    )
    made: BatchFeature = processor(image, return_tensors="pt")
    return made["pixel_values"]


def inputs(checkpoint: Checkpoint, asked: Request) -> dict[str, torch.Tensor]:
    """`generate`'s inputs for a request alone, as Florence2Processor writes them."""
    words = asked.task.prompt(asked.text, asked.region, asked.image.size)
    text = "<image>" * checkpoint.image_tokens + "<s>" + words + "</s>"
    ids = torch.tensor([checkpoint.tokenizer.backend.encode(text, add_special_tokens=False).ids])
    values = pixel_values(checkpoint, asked.image)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}


def generate(checkpoint: Checkpoint, asked: Request, *, adapter: Path | None = None, **settings: object) -> list[int]:
    """The tokens of `model.generate` for a request alone, after the start token, padding off. `adapter`: its folder."""
    unused = checkpoint.unused.nonzero().flatten().tolist()
    c = checkpoint.generation
    published = {
        "num_beams": asked.num_beams or c.num_beams,
        "max_new_tokens": asked.max_new_tokens or c.max_new_tokens,
        "no_repeat_ngram_size": c.no_repeat_ngram_size,
        "early_stopping": c.early_stopping,
        "length_penalty": c.length_penalty,
        "forced_bos_token_id": c.forced_bos_token_id,
        "forced_eos_token_id": c.forced_eos_token_id,
        "do_sample": False,
    }
    with torch.inference_mode():
        out = network(checkpoint, adapter).generate(
            **inputs(checkpoint, asked), **(published | settings), suppress_tokens=unused or None
        )
    tokens: list[int] = out[0, 1:].tolist()
    return tokens


def teacher_forced_rows(
    checkpoint: Checkpoint, asked: Request, tokens: Many[int], adapter: Path | None = None
) -> torch.Tensor:
    """The model's log probabilities [tokens, V] at each token, from one pass over the whole answer."""
    start = checkpoint.generation.decoder_start_token_id
    decoder = torch.tensor([[start, *tokens[:-1]]])
    with torch.inference_mode():
        logits = network(checkpoint, adapter)(**inputs(checkpoint, asked), decoder_input_ids=decoder).logits.float()
    return logits.log_softmax(-1)[0]


def teacher_forced(
    checkpoint: Checkpoint, asked: Request, tokens: Many[int], adapter: Path | None = None
) -> list[float]:
    """The model's log probability of each token."""
    rows = teacher_forced_rows(checkpoint, asked, tokens, adapter)
    found: list[float] = rows.gather(1, torch.tensor(tokens)[:, None]).flatten().tolist()
    return found
