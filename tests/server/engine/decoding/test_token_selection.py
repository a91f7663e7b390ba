"""N-gram ban and certainties, compared with transformers and with sums of probabilities."""

import pytest
import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from server.engine.decoding.token_selection import NEARBY_BINS, compute_certainties, mask_repeated_ngrams


def test_certainty_is_the_probability_of_nearby_locations() -> None:
    generator = torch.Generator().manual_seed(5)
    logprobs = torch.randn(3, 1100, generator=generator).mul(3).log_softmax(-1)
    locations = range(50, 1050)
    tokens = torch.tensor([[50], [600], [1049]])  # the first bin, one in the middle, the last
    found = compute_certainties(logprobs, torch.arange(3)[:, None], tokens, locations)
    for row, (token,) in enumerate(tokens.tolist()):
        nearby = [i for i in range(token - NEARBY_BINS, token + NEARBY_BINS + 1) if i in locations]
        assert found[row, 0].exp() == pytest.approx(float(logprobs[row, nearby].exp().sum()), abs=1e-6)
    letters = torch.tensor([[0], [49], [1050]])  # tokens adjacent to a text token mean something else
    found = compute_certainties(logprobs, torch.arange(3)[:, None], letters, locations)
    assert torch.equal(found, logprobs.gather(1, letters))


def test_mask_repeated_ngrams_equals_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3):
        rows = torch.randint(0, 4, (5, 12), generator=generator)
        scores = torch.randn(5, 6, generator=generator)
        lengths = torch.tensor([12, 9, 1, 2, 5])
        padded = rows.masked_fill(torch.arange(12) >= lengths[:, None], -1)
        masked = mask_repeated_ngrams(scores, padded, lengths, size)
        for row in range(5):
            expected = NoRepeatNGramLogitsProcessor(size)(rows[row : row + 1, : lengths[row]], scores[row : row + 1])
            assert torch.equal(masked[row], expected[0]), (size, row)
