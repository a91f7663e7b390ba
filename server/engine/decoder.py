"""Decoding: the encoder's states → tokens, one step at a time, for a batch of requests in step.

Each search holds `width` rows of the batch (a row a beam) and leaves it when it is done. All rows are at the same
position, since a batch starts together.
"""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, Florence2ForConditionalGeneration

from server.engine.beams import Candidate, Search

NEAR = 10  # bins, 1 % of the picture's side: how far off a location is still nearly right
_NONE = -1  # no token: what a shorter row is filled up with


def encode(
    model: Florence2ForConditionalGeneration, features: Tensor, prompts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Image features [n, image tokens, d] and n prompts as ids, `<s>` … `</s>` → states and mask [n, tokens(, d)].

    Prompts are padded on the right, since BART's positions are absolute.
    """
    words = model.model.language_model
    longest = max(map(len, prompts))
    pad = model.config.text_config.pad_token_id
    ids = torch.tensor([[*p, *[pad] * (longest - len(p))] for p in prompts], device=features.device)
    mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts], device=features.device)
    mask = torch.cat([mask.new_ones(features.shape[:2]), mask], 1)
    embedded = torch.cat([features, words.shared(ids).to(features.dtype)], 1)
    return words.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, mask


def forbid_repeats(scores: Tensor, sequences: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Sets to -inf every token that would complete an n-gram of `size` that the row already holds.

    `scores` [rows, V]; `sequences` [rows, L] with the start token, filled up with -1; `lengths` [rows].
    As transformers' NoRepeatNGramLogitsProcessor, for rows of any lengths.
    """
    if size <= 0 or sequences.shape[1] < size:
        return scores
    ends = lengths[:, None] - (size - 1) + torch.arange(size - 1, device=lengths.device)
    prefix = sequences.gather(1, ends.clamp(min=0))
    windows = sequences.unfold(1, size, 1)
    repeats = (windows[..., :-1] == prefix[:, None]).all(-1) & (lengths >= size)[:, None] & (windows[..., -1] != _NONE)
    spare = scores.shape[1]  # a column past the vocabulary takes what is not banned
    banned = torch.zeros(scores.shape[0], spare + 1, dtype=torch.bool, device=scores.device)
    banned.scatter_(1, torch.where(repeats, windows[..., -1], spare), True)
    return scores.masked_fill(banned[:, :spare], -torch.inf)


def certainties(logprobs: Tensor, rows: Tensor, tokens: Tensor, locations: range) -> Tensor:
    """How sure the model is of what a token means: log probabilities, of the shape of `tokens`.

    A letter token means itself. A location token means a place, and its neighbours mean nearly the same one, so its
    certainty is the probability of all bins within NEAR of it. The token's own probability would say how finely the
    model was taught to aim (taught with smoothed targets, a perfect box would score 0.1), not whether the box is right.
    `logprobs` [rows, V]; `rows`, `tokens` [n, m].
    """
    window = tokens[..., None] + torch.arange(-NEAR, NEAR + 1, device=tokens.device)
    inside = (window >= locations.start) & (window < locations.stop)
    near = logprobs[rows[..., None], window.clamp(0, logprobs.shape[1] - 1)].masked_fill(~inside, -torch.inf)
    placed = (tokens >= locations.start) & (tokens < locations.stop)
    return torch.where(placed, near.logsumexp(-1).clamp(max=0.0), logprobs[rows, tokens])


class Batch:
    """Searches that decode together. `searches` are those still in it, in the order of their rows."""

    def __init__(
        self,
        model: Florence2ForConditionalGeneration,
        states: Tensor,
        mask: Tensor,
        searches: Sequence[Search],
        suppressed: Tensor,
        locations: range,
    ) -> None:
        """`states` [n, tokens, d] and `mask` [n, tokens] of n searches of one width; `suppressed` [V] is true for the
        ids that may never come out; `locations`: the ids of the location tokens, in order."""
        self.locations = locations
        self.model, self.states, self.mask, self.suppressed = model, states, mask, suppressed
        self.searches = list(searches)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        starts = [[s.tokens[0]] for s in searches]
        self.sequences = torch.tensor(starts, device=states.device)  # [rows, tokens so far]

    def step(self) -> None:
        """Each search takes one token; those done leave."""
        logits = self._forward()
        if self.cache.get_seq_length() == 1 and (width := self.searches[0].width) > 1:
            # The beams of a search are the same before their first token: compute it once, then spread.
            logits = self._spread(logits, width)
        candidates = self._candidates(logits)
        parents, first = list[int](), 0
        for search, own in zip(self.searches, candidates, strict=True):
            parents += [first + parent for parent in search.advance(own)]
            first += search.width
        tokens = torch.tensor([[t] for s in self.searches for t in s.tokens], device=logits.device)
        if parents != list(range(len(parents))):
            index = torch.tensor(parents, device=logits.device)
            # Beams of one request share their cross-attention: only what they have said themselves moves.
            self.cache.self_attention_cache.reorder_cache(index)
            self.sequences = self.sequences[index]
        self.sequences = torch.cat([self.sequences, tokens], 1)
        self.drop([s for s in self.searches if s.done])

    def drop(self, searches: Collection[Search]) -> None:
        """Takes searches out of the batch and frees their rows."""
        if not searches:
            return
        gone = set(map(id, searches))
        spread = self.sequences.shape[0] == sum(s.width for s in self.searches)
        rows, first = list[int](), 0
        for search in self.searches:
            width = search.width if spread else 1
            if id(search) not in gone:
                rows += range(first, first + width)
            first += width
        self.searches = [s for s in self.searches if id(s) not in gone]
        self._select(torch.tensor(rows, device=self.states.device, dtype=torch.long))

    def _forward(self) -> Tensor:
        """One pass of the decoder over the last tokens → logits [rows, V] in fp32."""
        out = self.model.model.language_model.decoder(
            input_ids=self.sequences[:, -1:],
            encoder_hidden_states=self.states,
            encoder_attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        return self.model.lm_head(out.last_hidden_state[:, -1]).float()

    def _candidates(self, logits: Tensor) -> list[list[Candidate]]:
        """What each search may choose from, best first."""
        width, offered = self.searches[0].width, self.searches[0].offered
        logprobs = logits.log_softmax(-1)
        # Greedy ranks logits, beams log probabilities, as transformers does: rounding may tie one and not the other.
        scores = self._constrain(logits if width == 1 else logprobs)
        if width > 1:
            scores = scores + torch.tensor([x for s in self.searches for x in s.scores], device=logits.device)[:, None]
        size = logits.shape[1]
        scores = scores.view(-1, width * size)
        # argmax, as transformers' greedy search: of equals it takes the first, topk any.
        index = scores.argmax(-1, keepdim=True) if offered == 1 else scores.topk(offered).indices
        best = scores.gather(1, index)
        parents, tokens = index // size, index % size
        rows = parents + torch.arange(0, logits.shape[0], width, device=logits.device)[:, None]
        own = logprobs[rows, tokens]
        sure = certainties(logprobs, rows, tokens, self.locations)
        columns = (parents.tolist(), tokens.tolist(), best.tolist(), own.tolist(), sure.tolist())
        if any(math.isnan(score) for search in columns[2] for score in search):
            raise FloatingPointError(
                "the model gave what is not a number; its weights are broken or its type too narrow"
            )
        return [[Candidate(*c) for c in zip(*search, strict=True)] for search in zip(*columns, strict=True)]

    def _constrain(self, scores: Tensor) -> Tensor:
        """The n-gram ban, forced tokens and ids that do not exist, in transformers' order."""
        lengths = torch.full((scores.shape[0],), self.sequences.shape[1], device=scores.device)
        scores = forbid_repeats(scores, self.sequences, lengths, self.searches[0].config.no_repeat_ngram_size)
        scores = scores.masked_fill(self.suppressed, -torch.inf)
        first = 0
        for search in self.searches:
            if (token := search.forced()) is not None:
                scores[first : first + search.width] = -torch.inf
                scores[first : first + search.width, token] = 0
            first += search.width
        return scores

    def _spread(self, logits: Tensor, width: int) -> Tensor:
        self.cache.batch_repeat_interleave(width)
        self.states, self.mask, self.sequences, logits = (
            x.repeat_interleave(width, 0) for x in (self.states, self.mask, self.sequences, logits)
        )
        return logits

    def _select(self, rows: Tensor) -> None:
        if self.cache.get_seq_length():
            self.cache.batch_select_indices(rows)
        self.states, self.mask, self.sequences = self.states[rows], self.mask[rows], self.sequences[rows]
