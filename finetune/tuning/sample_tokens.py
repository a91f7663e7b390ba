"""The tokens of samples, and the samples that are too long for the model."""

from collections.abc import Sequence
from dataclasses import dataclass

from labels.dataset import UnusableEntry
from labels.geometry import MAX_ANSWER_POINTS
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.formatting import format_answer
from prompts.special_tokens import BOS, EOS
from server.engine.checkpoints.loading import CheckpointFiles
from server.engine.model.preprocessing import count_image_tokens

Size = tuple[int, int]
_FIXED_TOKENS = 100  # more than the words of any task's prompt
_SHAPE_TOKENS = 12  # more than the locations and separators of a box or quad
_POLYGON_TOKENS = 3 * MAX_ANSWER_POINTS  # more than the locations and separators of a polygon in an answer


@dataclass(frozen=True, slots=True)
class LongSample:
    """A sample that is left out. `part`: "prompt" or "answer", which has `tokens`, more than the `limit`.

    An answer that is cut off would teach the model to leave out objects, and a cut prompt asks for something else.
    """

    image: str
    task: str
    part: str
    tokens: int
    limit: int

    def __str__(self) -> str:
        return (
            f"the {self.part} of its {self.task} sample has {self.tokens} tokens, more than the {self.limit} that the "
            f"model has for it: left out of training; tiles or crops of the image may have shorter ones"
        )


@dataclass(frozen=True, slots=True)
class SampleTokens:
    """The token IDs of a sample, with BOS and EOS."""

    prompt: list[int]
    answer: list[int]


class SampleTokenizer:
    """Tokenizes samples for a model.

    `max_positions`: of the decoder; `max_prompt`: positions of the encoder beside the image.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        self._tokenizer = files.tokenizer.backend
        self.max_positions: int = files.config.text_config.max_position_embeddings
        self.max_prompt = self.max_positions - count_image_tokens(files.config, files.preprocessor)

    def tokenize(self, text: str) -> list[int]:
        """Returns the token IDs of a text without BOS and EOS."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def surely_fits(self, image: LabeledImage, longest_class: int) -> bool:
        """Returns whether no sample of the image's annotations can be too long, without making one.

        `longest_class`: bytes of the longest class name, which a prompt for an absent class contains. A token has at
        least one byte.
        """
        if image.samples:
            return False
        size = _FIXED_TOKENS + longest_class + sum(_SHAPE_TOKENS + len(a.label.encode()) for a in image.annotations)
        return size <= self.max_prompt and size + _POLYGON_TOKENS <= self.max_positions

    def encode(self, sample: Sample, image: str, size: Size) -> SampleTokens | LongSample:
        """Returns the tokens of a sample, or why it is left out: nothing is ever cut off.

        `image`: its name; `size`: its width and height.
        """
        prompt = self.tokenize(BOS + sample.task.build_prompt(sample.text, sample.region, size) + EOS)
        if len(prompt) > self.max_prompt:
            return LongSample(image, sample.task.token, "prompt", len(prompt), self.max_prompt)
        answer = self.tokenize(BOS + format_answer(sample.task, sample.answer, size) + EOS)
        if len(answer) > self.max_positions:
            return LongSample(image, sample.task.token, "answer", len(answer), self.max_positions)
        return SampleTokens(prompt, answer)


def to_unusable(images: Sequence[LabeledImage], long_samples: Sequence[LongSample]) -> list[UnusableEntry]:
    """Returns an entry of the list of unusable labels for each sample, by file and line."""
    sources = {image.name: image.source or image.name for image in images}
    return [UnusableEntry(sources[sample.image], f"{sample.image}: {sample}") for sample in long_samples]
