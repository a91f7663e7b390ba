"""How far the other prompts of a batch move the logits of a prompt: `python -m benchmarks.batch_rounding`.

Decodes drawn scenes alone and in batches of several sizes, and compares the logits of each step until an answer
differs. With `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` it runs the kernels of
older CPUs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.decoding.token_selection import TokenSelector
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request
from server.engine.runner import ModelRunner
from server.engine.sequence import Sequence as EngineSequence

SCENES, SIZES = 24, (2, 4, 8, 24)
Steps = list[tuple[int, Tensor]]
"""The token and the logits [V] of each step."""


class _RecordingSelector:
    """Records the logits of each search."""

    def __init__(self, selector: TokenSelector) -> None:
        self.selector, self.logits = selector, dict[int, list[Tensor]]()

    def select(self, searches, logits, *rest):  # type: ignore[no-untyped-def]
        for search, row in zip(searches, logits, strict=True):
            self.logits.setdefault(id(search), []).append(row.clone())
        return self.selector.select(searches, logits, *rest)

    @property
    def ngram_size(self) -> int:
        return self.selector.ngram_size


def decode(checkpoint: Checkpoint, requests: Sequence[Request]) -> list[Steps]:
    """Decodes requests in one batch. Returns the steps of each."""
    runner = ModelRunner(checkpoint, len(requests), FeatureCache(1 << 28))
    recorder = _RecordingSelector(runner.decoder.selector)
    runner.decoder.selector = recorder  # type: ignore[assignment]
    sequences = [EngineSequence(request, checkpoint) for request in requests]
    runner.add(sequences)
    running = list(sequences)
    while running:
        for sequence in [each for each in running if each.process_output()]:
            runner.remove(sequence)
            running.remove(sequence)
        if running:
            runner.step()
    return [
        [(step.token, row) for step, row in zip(each.search.settled, recorder.logits[id(each.search)], strict=True)]
        for each in sequences
    ]


def main() -> None:
    checkpoint = load_checkpoint()
    images = [draw_scene(7000 + seed, size=(300, 220)).image for seed in range(SCENES)]
    requests = [Request(image, TASKS["<OD>"], num_beams=1, max_new_tokens=60) for image in images]
    alone = [decode(checkpoint, [request])[0] for request in requests]
    margins = sorted(float(torch.sub(*logits.topk(2).values)) for steps in alone for _, logits in steps)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, {len(margins)} steps")
    print(f"smallest differences of the two best logits: {', '.join(f'{margin:.1e}' for margin in margins[:3])}")
    for size in SIZES:
        together = [steps for i in range(0, SCENES, size) for steps in decode(checkpoint, requests[i : i + size])]
        largest, different = 0.0, 0
        for one, other in zip(alone, together, strict=True):
            for (token, row), (other_token, other_row) in zip(one, other, strict=False):
                largest = max(largest, float((row - other_row).abs().max()))
                if token != other_token:
                    different += 1
                    break
        print(f"batches of {size}: logits differ by up to {largest:.1e}; {different} of {SCENES} answers differ")


if __name__ == "__main__":
    main()
