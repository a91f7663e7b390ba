"""From logits to what a search may choose from: transformers' rules, for many requests at once, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.engine.decoding.search import Candidate, Search

NEAR = 10  # bins, 1 % of the picture's side: how far off a location is still nearly right
NONE = -1  # no token: what a shorter row is filled up with


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
    repeats = (windows[..., :-1] == prefix[:, None]).all(-1) & (lengths >= size)[:, None] & (windows[..., -1] != NONE)
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


class Chooser:
    """The rules of one checkpoint: ids that do not exist, the n-gram ban, forced tokens."""

    def __init__(self, suppressed: Tensor, locations: range, ngram: int) -> None:
        """`suppressed` [V] is true for the ids that may never come out; `locations`: the ids of the location tokens, in
        order; `ngram`: the size of what may not be said twice, 0 for no ban."""
        self.suppressed, self.locations, self.ngram = suppressed, locations, ngram

    def candidates(
        self, searches: Sequence[Search], logits: Tensor, said: Tensor, lengths: Sequence[int], allowed: Tensor | None
    ) -> list[list[Candidate]]:
        """What each search may choose from, best first; all have one width w.

        `logits` [searches · w, V] in fp32; `said` [searches · w, L], of which the first `lengths` (one a search) count,
        unused where there is no ban; `allowed` [searches · w, V], false where a constraint forbids the token.
        """
        width, offered, size = searches[0].width, searches[0].offered, logits.shape[1]
        logprobs = logits.log_softmax(-1)
        # Greedy ranks logits, beams log probabilities, as transformers does: rounding may tie one and not the other.
        scores = logits if width == 1 else logprobs
        if self.ngram:
            ends = torch.tensor(lengths, device=logits.device).repeat_interleave(width)
            scores = forbid_repeats(scores, said, ends, self.ngram)
        if allowed is not None:
            # Where the ban leaves nothing of what the constraint allows, the constraint has the word.
            kept = scores.masked_fill(~allowed, -torch.inf)
            stuck = kept.isneginf().all(-1, keepdim=True)
            scores = torch.where(stuck, logprobs.masked_fill(~allowed, -torch.inf), kept)
        scores = scores.masked_fill(self.suppressed, -torch.inf)
        for i, search in enumerate(searches):
            if (token := search.forced()) is not None:
                scores[i * width : (i + 1) * width] = -torch.inf
                scores[i * width : (i + 1) * width, token] = 0
        if width > 1:
            scores = scores + torch.tensor([x for s in searches for x in s.scores], device=logits.device)[:, None]
        scores = scores.view(-1, width * size)
        # argmax, as transformers' greedy search: of equals it takes the first, topk any.
        index = scores.argmax(-1, keepdim=True) if offered == 1 else scores.topk(offered).indices
        parents, tokens = index // size, index % size
        rows = parents + torch.arange(0, logits.shape[0], width, device=logits.device)[:, None]
        own, sure = logprobs[rows, tokens], certainties(logprobs, rows, tokens, self.locations)
        # One copy to the host for all of it; a double holds ids and fp32 alike exactly.
        parts = (parents, tokens, scores.gather(1, index), own, sure)
        found = torch.stack([part.double() for part in parts], -1).cpu()
        if found[..., 2].isnan().any():
            raise FloatingPointError(
                "the model gave what is not a number; its weights are broken or its type too narrow"
            )
        return [[Candidate(int(c[0]), int(c[1]), *c[2:]) for c in search] for search in found.tolist()]
