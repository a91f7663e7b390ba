"""CIDEr, BLEU and ROUGE-L of captions, computed by the code of COCO (pycocoevalcap).

This needs the extra `captions`. METEOR and SPICE are left out: they need Java and downloads. Stanford's tokenizer
needs Java too; NLTK's Treebank tokenizer replaces it, with the same list of punctuation removed. Values can therefore
differ from published ones in the third digit.
"""

from collections.abc import Sequence
from typing import Any

from labels.extras import describe_install

CaptionPairs = Sequence[tuple[str, Sequence[str]]]
"""For each image, the predicted caption and the captions of people."""


def describe_missing() -> str:
    """Returns what is left out without the libraries that score captions, and how to install them."""
    return f"CIDEr, BLEU and ROUGE-L are left out: they need the extra `captions`, {describe_install('captions')}"


class CaptionScorersMissingError(ImportError):
    """The libraries that score captions are not installed."""


def can_score_captions() -> bool:
    """Returns whether the libraries that score captions are installed."""
    try:
        _load_scorers()
    except CaptionScorersMissingError:
        return False
    return True


def score_captions(pairs: CaptionPairs) -> dict[str, float]:
    """Returns `CIDEr`, `BLEU-1` … `BLEU-4` and `ROUGE-L`; an empty result if there are no pairs.

    CIDEr is ten times a similarity. Its document frequencies come from these images, so that a single image scores 0.
    The other values are 0 to 1. Raises CaptionScorersMissingError.
    """
    if not pairs:
        return {}
    bleu, cider, rouge = _load_scorers()
    predicted = {i: [_tokenize(text)] for i, (text, _) in enumerate(pairs)}
    references = {i: [_tokenize(text) for text in texts] for i, (_, texts) in enumerate(pairs)}
    metrics = {"CIDEr": float(cider.compute_score(references, predicted)[0])}
    values, _ = bleu.compute_score(references, predicted, verbose=0)
    metrics |= {f"BLEU-{n}": float(value) for n, value in enumerate(values, 1)}
    metrics["ROUGE-L"] = float(rouge.compute_score(references, predicted)[0])
    return metrics


def _load_scorers() -> tuple[Any, Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise CaptionScorersMissingError(describe_missing()) from error
    return Bleu(4), Cider(), Rouge()


def _tokenize(text: str) -> str:
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    removed = {*PUNCTUATIONS, *"()[]{}"}  # Stanford's tokenizer writes brackets as -LRB- …
    words = TreebankWordTokenizer().tokenize(text.lower().replace("\n", " "))
    return " ".join(word for word in words if word not in removed)
