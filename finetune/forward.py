"""Teacher forcing, for all trainers: pictures and prompts through the encoder, answers through the decoder."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration

from finetune.losses import IGNORE


def encode(
    model: Florence2ForConditionalGeneration, image: Tensor, owner: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """The encoder's states and their mask, [n, places, d] and [n, places].

    `image` [b, image tokens, d] as `get_image_features` gives it, `owner` [n]: the picture of each prompt, `prompts`
    [n, p], padded on the right.
    """
    language = model.model.language_model
    pad = model.config.text_config.pad_token_id
    embedded = torch.cat([image[owner], language.shared(prompts).to(image.dtype)], 1)
    mask = torch.cat([torch.ones_like(owner)[:, None].expand(-1, image.shape[1]), (prompts != pad).long()], 1)
    return language.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, mask


def decode(
    model: Florence2ForConditionalGeneration, encoded: Tensor, mask: Tensor, labels: Tensor,
    watched: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The decoder's states for the tokens that are taught, those tokens, and whose they are: [n, d], [n], [n].

    `labels` [answers, l], padded with -100. Short answers and long ones (polygons) go through apart, since padding
    costs as much as what it pads. `watched` receives, in one tensor or several, for tokens in this order, the log
    attention that the first head of the last cross-attention but one gives each place, [n, places].
    """
    shape = model.config.text_config
    lengths = (labels != IGNORE).sum(1)
    order = lengths.argsort(stable=True)  # of some of the answers alone it is the same
    states, tokens, owners = [], [], []
    decoder = model.model.language_model.decoder
    cross = decoder.layers[max(len(decoder.layers) - 2, 0)].encoder_attn
    for rows in order.split(math.ceil(len(order) * 0.7)):
        own = labels[rows, : rounded(int(lengths[rows].max()))]
        start = torch.full_like(own[:, :1], shape.decoder_start_token_id)
        said = own[:, :-1].masked_fill(own[:, :-1] == IGNORE, shape.pad_token_id)
        with ExitStack() as hooks:  # none where nobody watches: threads that teach side by side share the modules
            heard = [] if watched is None else [hooks.enter_context(output(m)) for m in (cross.q_proj, cross.k_proj)]
            out = decoder(
                input_ids=torch.cat([start, said], 1),
                encoder_hidden_states=encoded[rows],
                encoder_attention_mask=mask[rows],
                use_cache=False,
            ).last_hidden_state
        if watched is not None:
            queries, keys = (given[0][..., : cross.head_dim] for given in heard)
            scores = (queries @ keys.transpose(1, 2)).float() * cross.scaling
            scores = scores.masked_fill(mask[rows, None] == 0, -math.inf)
            watched.append(scores.log_softmax(-1)[own != IGNORE])
        states.append(out[own != IGNORE])
        tokens.append(own[own != IGNORE])
        owners.append(rows[:, None].expand_as(own)[own != IGNORE])
    return torch.cat(states), torch.cat(tokens), torch.cat(owners)


def rounded(length: int) -> int:
    """Up to a multiple of 16: the libraries below make a kernel for each shape, and few shapes come again."""
    return math.ceil(length / 16) * 16


@contextmanager
def output(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module gives while this is open, a tensor a call."""
    given: list[Tensor] = []
    hook = module.register_forward_hook(lambda *call: given.append(call[-1]))
    try:
        yield given
    finally:
        hook.remove()
