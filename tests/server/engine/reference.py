"""transformers as the reference: the tokens and scores that the engine must reproduce."""

from collections.abc import Sequence as Many
from functools import lru_cache
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import BatchFeature, CLIPImageProcessorPil, Florence2ForConditionalGeneration

from prompts.tasks import TASKS
from server.engine.checkpoints.loading import Checkpoint
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request, Result
from server.engine.runner import ModelRunner
from server.engine.sequence import Sequence

# The text of each task that needs one.
TEXTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a red car left of the tree",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the bin",
    "<OPEN_VOCABULARY_DETECTION>": "the ring",
}


@lru_cache(8)
def _network(folder: Path, adapter: Path | None) -> Florence2ForConditionalGeneration | PeftModel:
    network = Florence2ForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    return (PeftModel.from_pretrained(network, adapter) if adapter else network).eval()


def load_network(checkpoint: Checkpoint, adapter: Path | None = None) -> Florence2ForConditionalGeneration | PeftModel:
    """Returns transformers' model of the same files, with PEFT's adapter if given. Needs the native layout."""
    return _network(checkpoint.folder, adapter)


def get_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Returns all weights of our model."""
    return dict(checkpoint.model.named_parameters())


def run_request(checkpoint: Checkpoint, request: Request) -> Result:
    """Returns the result of our model for a single request."""
    runner = ModelRunner(checkpoint, 1, FeatureCache(0))
    sequence = Sequence(request, checkpoint)
    runner.add([sequence])
    while not sequence.process_output():
        runner.step()
    return sequence.create_result()


def create_request(token: str, image: Image.Image, *, beams: int | None = None, limit: int | None = None) -> Request:
    """Returns a request for a task, with a text or region if the task needs one."""
    task = TASKS[token]
    width, height = image.size
    region = (width * 0.2, height * 0.3, width * 0.7, height * 0.9) if task.input_kind == "region" else None
    return Request(image, task, TEXTS.get(token), region, max_new_tokens=limit, num_beams=beams)


def compute_pixel_values(checkpoint: Checkpoint, image: Image.Image) -> torch.Tensor:
    """Returns the output of transformers' image processor."""
    p = checkpoint.preprocessor
    size = {"height": p.height, "width": p.width}
    processor = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, resample=p.resample, image_mean=p.mean, image_std=p.std
    )
    made: BatchFeature = processor(image, return_tensors="pt")
    return made["pixel_values"]


def create_inputs(checkpoint: Checkpoint, request: Request) -> dict[str, torch.Tensor]:
    """Returns the inputs of `generate` for a single request, as Florence2Processor creates them."""
    words = request.task.build_prompt(request.text, request.region, request.image.size)
    text = "<image>" * checkpoint.image_tokens + "<s>" + words + "</s>"
    ids = torch.tensor([checkpoint.tokenizer.backend.encode(text, add_special_tokens=False).ids])
    values = compute_pixel_values(checkpoint, request.image)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}


def generate(checkpoint: Checkpoint, request: Request, *, adapter: Path | None = None, **settings: object) -> list[int]:
    """Returns the tokens of `model.generate` for a single request, without start token and padding. `adapter`: a
    folder."""
    unused = checkpoint.unused_tokens.nonzero().flatten().tolist()
    c = checkpoint.generation
    published = {
        "num_beams": request.num_beams or c.num_beams,
        "max_new_tokens": request.max_new_tokens or c.max_new_tokens,
        "no_repeat_ngram_size": c.no_repeat_ngram_size,
        "early_stopping": c.early_stopping,
        "length_penalty": c.length_penalty,
        "forced_bos_token_id": c.forced_bos_token_id,
        "forced_eos_token_id": c.forced_eos_token_id,
        "do_sample": False,
    }
    with torch.inference_mode():
        out = load_network(checkpoint, adapter).generate(
            **create_inputs(checkpoint, request), **(published | settings), suppress_tokens=unused or None
        )
    tokens: list[int] = out[0, 1:].tolist()
    return tokens


def compute_logprob_rows(
    checkpoint: Checkpoint, request: Request, tokens: Many[int], adapter: Path | None = None
) -> torch.Tensor:
    """Returns the log probabilities [tokens, V] at each token, from one pass over the whole answer."""
    start = checkpoint.generation.decoder_start_token_id
    decoder = torch.tensor([[start, *tokens[:-1]]])
    with torch.inference_mode():
        logits = load_network(checkpoint, adapter)(
            **create_inputs(checkpoint, request), decoder_input_ids=decoder
        ).logits.float()
    return logits.log_softmax(-1)[0]


def compute_logprobs(
    checkpoint: Checkpoint, request: Request, tokens: Many[int], adapter: Path | None = None
) -> list[float]:
    """Returns the log probability of each token, from one pass over the whole answer."""
    rows = compute_logprob_rows(checkpoint, request, tokens, adapter)
    found: list[float] = rows.gather(1, torch.tensor(tokens)[:, None]).flatten().tolist()
    return found
