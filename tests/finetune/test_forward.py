"""The forward pass: padding does not change the states of tokens."""

import torch

from finetune import forward
from finetune.losses import IGNORE
from seedling import architecture


def test_lengths_are_rounded_up() -> None:
    assert [forward.round_up(n) for n in (0, 1, 16, 17, 40)] == [0, 16, 16, 32, 48]


def test_padding_does_not_change_states() -> None:
    model = architecture.build_model(0, image_side=96)[0].eval()
    image = torch.randn(2, 36, model.config.text_config.d_model, generator=torch.Generator().manual_seed(0))
    prompts, owner = torch.tensor([[0, 9, 8, 2], [0, 9, 2, 1], [0, 7, 7, 2]]), torch.tensor([0, 0, 1])
    labels = torch.tensor([[0, 5, 6, 7, 2], [0, 6, 2, IGNORE, IGNORE], [0, 5, 2, IGNORE, IGNORE]])
    wide = torch.nn.functional.pad(prompts, (0, 12), value=1), torch.nn.functional.pad(labels, (0, 27), value=IGNORE)
    results = []
    for own_prompts, own_labels in ((prompts, labels), wide):
        with torch.no_grad():
            encoded, mask = forward.encode_prompts(model, image, owner, own_prompts)
            results.append(forward.decode_answers(model, encoded, mask, own_labels))
    (states, tokens, owners), (padded, same_tokens, same_owners) = results
    assert tokens.tolist() == same_tokens.tolist()
    assert owners.tolist() == same_owners.tolist()
    torch.testing.assert_close(states, padded, atol=1e-5, rtol=1e-5)
    for row in range(3):  # each alone, without padding
        lengths = int((prompts[row] != 1).sum()), int((labels[row] != IGNORE).sum())
        with torch.no_grad():
            encoded, mask = forward.encode_prompts(
                model, image, owner[row : row + 1], prompts[row : row + 1, : lengths[0]]
            )
            alone, _, _ = forward.decode_answers(model, encoded, mask, labels[row : row + 1, : lengths[1]])
        torch.testing.assert_close(alone, padded[owners == row], atol=1e-5, rtol=1e-5)
