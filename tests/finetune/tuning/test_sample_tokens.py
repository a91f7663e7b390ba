import numpy as np
import pytest

from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.tuning.sample_tokens import LongSample, SampleTokenizer, SampleTokens
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.special_tokens import BOS, EOS
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import read_checkpoint

SIZE = (640, 480)
STAR = [[float(v) for k in range(200) for v in (320 + 200 * np.cos(k) * (1 + k % 2), 240 + 90 * np.sin(k))]]
RINGS = [[x, y, x + 20.0, y, x + 20.0, y + 20] for y in range(0, 450, 60) for x in range(0, 600, 60)]
LABELED: list[list[Annotation]] = [
    [],
    [Box(label="cat", box=(1, 1, 9, 9))],
    [Polygon(label="Straße", polygons=STAR), Box(label="cat", box=(1, 1, 9, 9))],
    [Polygon(label="犬", polygons=RINGS)],
    [Quad(label="STOP 🐈" * n, quad=(0, 0, 9, 0, 9, 9, 0, 9)) for n in range(1, 9)],
    [Text(label="A long caption of many words. " * 20)],
]


@pytest.fixture
def tokenizer(base: str) -> SampleTokenizer:
    return SampleTokenizer(read_checkpoint(base))


@pytest.mark.parametrize("annotations", LABELED)
def test_images_that_surely_fit_have_no_long_sample(tokenizer: SampleTokenizer, annotations: list[Annotation]) -> None:
    complete = frozenset({LabelKind.OBJECTS, LabelKind.WORDS})
    image = LabeledImage("a.png", "a.json", *SIZE, tuple(annotations), complete=complete)
    classes = ("cat", "a class with a long name that is absent from every image")

    def fits(limit: int) -> bool:
        tokenizer.max_prompt = tokenizer.max_positions = limit
        return tokenizer.surely_fits(image, max(len(name) for name in classes))

    limit = next(limit for limit in range(2000) if fits(limit))
    assert fits(limit)
    for seed in range(5):
        samples = make_samples(
            image, sorted(find_trainable_tasks(image)), classes=classes, rng=np.random.default_rng(seed)
        )
        assert all(isinstance(tokenizer.encode(sample, "a.png", SIZE), SampleTokens) for sample in samples)


def test_a_long_sample_says_what_is_too_long(tokenizer: SampleTokenizer) -> None:
    boxes = tuple(Box(label="cat", box=(x, 1, x + 3.0, 9)) for x in range(400))
    found = tokenizer.encode(Sample(TASKS["<OD>"], boxes), "a.png", SIZE)
    assert isinstance(found, LongSample)
    assert (found.image, found.task, found.part, found.limit) == ("a.png", "<OD>", "answer", tokenizer.max_positions)
    assert f"the answer of its <OD> sample has {found.tokens} tokens" in str(found)
    short = tokenizer.encode(Sample(TASKS["<OD>"], boxes[:2]), "a.png", SIZE)
    assert isinstance(short, SampleTokens)
    assert (short.answer[0], short.answer[-1]) == (tokenizer.tokenize(BOS)[0], tokenizer.tokenize(EOS)[0])
