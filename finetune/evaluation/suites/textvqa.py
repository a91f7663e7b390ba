"""TextVQA: questions whose answer is written in the picture (https://textvqa.org/dataset).

    TextVQA_0.5.1_val.json   train_images/003a8ae2ef43b901.jpg …

Ten people's answers a question, scored as the VQA challenge does. It is a task of checkpoints that were fine-tuned on
it, asked by the token <VQA>.
"""

from pathlib import Path

from finetune.evaluation.report import Report
from finetune.evaluation.suites.suite import Gathering, Row, Suite, only
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Question
from prompts.annotations import Text
from prompts.tasks import resolve

ACCURACY = {"base-ft": 63.6, "large-ft": 73.5}
TOKEN = "<VQA>"


def read(folder: Path) -> Suite:
    """The suite of a folder of that layout. Raises DatasetError."""
    path = only(folder, "TextVQA*val*.json", needs="TextVQA_0.5.1_val.json")
    content = documents.load(path)
    gathering = Gathering(
        [folder / "train_images", folder / "train_val_images/train_images", folder / "images", folder]
    )
    try:
        for row in content["data"]:
            answers = tuple(Text(label=str(answer)) for answer in row["answers"])
            asked = Question(resolve(TOKEN), answers, text=str(row["question"]))
            gathering.add(f"{row['image_id']}.jpg", f"{path.name}: question {row.get('question_id')}", [asked])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not as TextVQA has it: {error!r}") from error

    def rows(report: Report) -> list[Row]:
        marks = report.tasks.get(TOKEN)
        return [Row(TOKEN, "accuracy", 100 * marks.figures["accuracy"], ACCURACY)] if marks else []

    return gathering.suite(rows)
