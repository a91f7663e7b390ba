"""The forward pass with teacher forcing: images and prompts through the encoder, answers through the decoder."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration

from finetune.losses import IGNORE


def encode_prompts(
    model: Florence2ForConditionalGeneration, image: Tensor, owner: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the encoder's states [n, positions, d] and their mask [n, positions].

    `image` [b, image tokens, d]: as returned by `get_image_features`; `owner` [n]: the image of each prompt; `prompts`
    [n, p]: padded on the right.
    """
    language = model.model.language_model
    pad = model.config.text_config.pad_token_id
    embedded = torch.cat([image[owner], language.shared(prompts).to(image.dtype)], 1)
    mask = torch.cat([torch.ones_like(owner)[:, None].expand(-1, image.shape[1]), (prompts != pad).long()], 1)
    return language.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, mask


def decode_answers(
    model: Florence2ForConditionalGeneration, encoded: Tensor, mask: Tensor, labels: Tensor,
    attention: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the decoder's states for the label tokens, these tokens, and their answers: [n, d], [n], [n].

    `labels` [answers, l]: padded with -100. Short and long answers (polygons) are processed separately, since padding
    costs as much as tokens. `attention` receives the log attention of the first head of the second-to-last
    cross-attention, [n, positions], in one or more tensors, for the tokens in the same order.
    """
    shape = model.config.text_config
    lengths = (labels != IGNORE).sum(1)
    order = lengths.argsort(stable=True)  # a subset of the answers has the same order
    states, tokens, owners = [], [], []
    decoder = model.model.language_model.decoder
    cross = decoder.layers[max(len(decoder.layers) - 2, 0)].encoder_attn
    for rows in order.split(math.ceil(len(order) * 0.7)):
        own = labels[rows, : round_up(int(lengths[rows].max()))]
        start = torch.full_like(own[:, :1], shape.decoder_start_token_id)
        inputs = own[:, :-1].masked_fill(own[:, :-1] == IGNORE, shape.pad_token_id)
        with ExitStack() as hooks:  # no hooks unless requested: threads that train in parallel share the modules
            modules = () if attention is None else (cross.q_proj, cross.k_proj)
            outputs = [hooks.enter_context(capture_outputs(module)) for module in modules]
            out = decoder(
                input_ids=torch.cat([start, inputs], 1),
                encoder_hidden_states=encoded[rows],
                encoder_attention_mask=mask[rows],
                use_cache=False,
            ).last_hidden_state
        if attention is not None:
            queries, keys = (calls[0][..., : cross.head_dim] for calls in outputs)
            scores = (queries @ keys.transpose(1, 2)).float() * cross.scaling
            scores = scores.masked_fill(mask[rows, None] == 0, -math.inf)
            attention.append(scores.log_softmax(-1)[own != IGNORE])
        states.append(out[own != IGNORE])
        tokens.append(own[own != IGNORE])
        owners.append(rows[:, None].expand_as(own)[own != IGNORE])
    return torch.cat(states), torch.cat(tokens), torch.cat(owners)


def round_up(length: int) -> int:
    """Rounds up to a multiple of 16: oneDNN builds a kernel for each shape, so that fewer shapes are faster."""
    return math.ceil(length / 16) * 16


@contextmanager
def capture_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list that receives the module's output of each call."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        yield outputs
    finally:
        hook.remove()
