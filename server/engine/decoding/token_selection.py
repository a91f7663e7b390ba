"""Selects the candidates of each search from logits: transformers' logits processors, batched on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.engine.decoding.search import Candidate, Search

NEARBY_BINS = 10  # 1 % of the image side: locations within this distance count as nearly the same
PADDING = -1  # not a token: pads the shorter rows of generated tokens


def mask_repeated_ngrams(scores: Tensor, generated: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Sets to -inf each token that would complete an n-gram of `size` tokens that the row already contains.

    `scores` [rows, V]; `generated` [rows, L], the start token first, padded with -1; `lengths` [rows].
    Same as transformers' NoRepeatNGramLogitsProcessor, for rows of different lengths.
    """
    if size <= 0 or generated.shape[1] < size:
        return scores
    ends = lengths[:, None] - (size - 1) + torch.arange(size - 1, device=lengths.device)
    prefix = generated.gather(1, ends.clamp(min=0))
    windows = generated.unfold(1, size, 1)
    repeats = (
        (windows[..., :-1] == prefix[:, None]).all(-1) & (lengths >= size)[:, None] & (windows[..., -1] != PADDING)
    )
    unused = scores.shape[1]  # an extra column past the vocabulary, for windows that ban nothing
    banned = torch.zeros(scores.shape[0], unused + 1, dtype=torch.bool, device=scores.device)
    banned.scatter_(1, torch.where(repeats, windows[..., -1], unused), True)
    return scores.masked_fill(banned[:, :unused], -torch.inf)


def compute_certainties(logprobs: Tensor, rows: Tensor, tokens: Tensor, locations: range) -> Tensor:
    """Returns how certain the model is of the meaning of each token: log probabilities with the shape of `tokens`.

    The certainty of a text token is its own log probability. A location token means a position, and adjacent tokens
    mean nearly the same position, so its certainty is the probability of all bins within NEARBY_BINS. The probability
    of the single token would say how precise the training targets were (with smoothed targets, a perfect box would
    score 0.1), not whether the box is right.

    `logprobs` [rows, V]; `rows`, `tokens` [n, m]; `locations`: ids of the location tokens, in order.
    """
    window = tokens[..., None] + torch.arange(-NEARBY_BINS, NEARBY_BINS + 1, device=tokens.device)
    inside = (window >= locations.start) & (window < locations.stop)
    nearby = logprobs[rows[..., None], window.clamp(0, logprobs.shape[1] - 1)].masked_fill(~inside, -torch.inf)
    is_location = (tokens >= locations.start) & (tokens < locations.stop)
    return torch.where(is_location, nearby.logsumexp(-1).clamp(max=0.0), logprobs[rows, tokens])


class TokenSelector:
    """Selects the candidates of each search by the rules of one checkpoint."""

    def __init__(self, suppressed: Tensor, locations: range, ngram_size: int) -> None:
        """`suppressed` [V]: true for ids that stand for no token. `locations`: ids of the location tokens, in order.
        `ngram_size`: size of the n-grams that may not repeat, 0 for no ban."""
        self.suppressed, self.locations, self.ngram_size = suppressed, locations, ngram_size

    def select(
        self,
        searches: Sequence[Search],
        logits: Tensor,
        generated: Tensor,
        lengths: Sequence[int],
        allowed: Tensor | None,
    ) -> list[list[Candidate]]:
        """Returns the candidates of each search, best first. All searches have the same width w. The list of a search
        whose scores are NaN is empty.

        `logits` [searches · w, V] in fp32.
        `generated` [searches · w, L]: tokens so far, unused without an n-gram ban.
        `lengths`: number of tokens in `generated` of each search.
        `allowed` [searches · w, V]: false for tokens that a constraint forbids; None without constraints.
        """
        width, size = searches[0].width, logits.shape[1]
        logprobs = logits.log_softmax(-1)
        # As in transformers, greedy search ranks logits and beam search log probabilities: rounding may create a tie in
        # one and not in the other.
        scores = logits if width == 1 else logprobs
        if self.ngram_size:
            ends = torch.tensor(lengths, device=logits.device).repeat_interleave(width)
            scores = mask_repeated_ngrams(scores, generated, ends, self.ngram_size)
        if allowed is not None:
            # When the n-gram ban leaves no allowed token, the constraint takes precedence.
            constrained = scores.masked_fill(~allowed, -torch.inf)
            stuck = constrained.isneginf().all(-1, keepdim=True)
            scores = torch.where(stuck, logprobs.masked_fill(~allowed, -torch.inf), constrained)
        scores = scores.masked_fill(self.suppressed, -torch.inf)
        for i, search in enumerate(searches):
            if (token := search.forced_token) is not None:
                scores[i * width : (i + 1) * width] = -torch.inf
                scores[i * width : (i + 1) * width, token] = 0
        if width > 1:
            scores = scores + torch.tensor([x for s in searches for x in s.scores], device=logits.device)[:, None]
        scores = scores.view(-1, width * size)
        count = searches[0].candidate_count
        # argmax as in transformers' greedy search: of equal scores it takes the first, topk takes any.
        index = scores.argmax(-1, keepdim=True) if count == 1 else scores.topk(count).indices
        parents, tokens = index // size, index % size
        rows = parents + torch.arange(0, logits.shape[0], width, device=logits.device)[:, None]
        certainties = compute_certainties(logprobs, rows, tokens, self.locations)
        # One copy to the host for everything: a double represents ids and fp32 values exactly.
        parts = (parents, tokens, scores.gather(1, index), logprobs[rows, tokens], certainties)
        found = torch.stack([part.double() for part in parts], -1).cpu()
        is_nan = found[..., 2:4].isnan().any(-1).any(-1).tolist()
        return [
            [] if broken else [Candidate(int(c[0]), int(c[1]), *c[2:]) for c in search]
            for search, broken in zip(found.tolist(), is_nan, strict=True)
        ]
