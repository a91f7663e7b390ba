"""Captions against several references: CIDEr, BLEU and ROUGE-L, by COCO's own code (pycocoevalcap).

It needs the extra `captions`. METEOR and SPICE want Java and models from elsewhere, and are left out. The same goes
for Stanford's tokenizer: NLTK's Treebank one stands in, its punctuation taken out by the same list, so that a figure
can differ in the third digit from one that a paper reports.
"""

from collections.abc import Sequence
from typing import Any

Pairs = Sequence[tuple[str, Sequence[str]]]
"""Of each picture, what was said, and what people said."""


NEEDED = "CIDEr, BLEU and ROUGE-L are left out: they need the extra `captions`, pip install 'florist[captions]'"


class NoScores(ImportError):  # noqa: N818
    """The libraries that score captions are not installed."""


def installed() -> bool:
    """Whether captions can be scored."""
    try:
        _scorers()
    except NoScores:
        return False
    return True


def scores(pairs: Pairs) -> dict[str, float]:
    """`CIDEr` (10 times a similarity; a document frequency over these very pictures, so one alone scores 0), `BLEU-1`
    … `BLEU-4` and `ROUGE-L` (0 to 1). Empty of no pairs. Raises NoScores."""
    if not pairs:
        return {}
    bleu, cider, rouge = _scorers()
    said = {i: [_tokens(text)] for i, (text, _) in enumerate(pairs)}
    true = {i: [_tokens(text) for text in texts] for i, (_, texts) in enumerate(pairs)}
    figures = {"CIDEr": float(cider.compute_score(true, said)[0])}
    values, _ = bleu.compute_score(true, said, verbose=0)
    figures |= {f"BLEU-{n}": float(value) for n, value in enumerate(values, 1)}
    figures["ROUGE-L"] = float(rouge.compute_score(true, said)[0])
    return figures


def _scorers() -> tuple[Any, Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise NoScores(NEEDED) from error
    return Bleu(4), Cider(), Rouge()


def _tokens(text: str) -> str:
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    left_out = {*PUNCTUATIONS, *"()[]{}"}  # which Stanford's spells -LRB- and so on
    words = TreebankWordTokenizer().tokenize(text.lower().replace("\n", " "))
    return " ".join(word for word in words if word not in left_out)
