"""TextVQA: questions whose answer is written in the image (https://textvqa.org/dataset).

    TextVQA_0.5.1_val.json   train_images/003a8ae2ef43b901.jpg …

Each question has ten people's answers and is scored as in the VQA challenge. The task token <VQA> works only with
checkpoints that were fine-tuned on it.
"""

from pathlib import Path

from finetune.evaluation.report import EvaluationReport
from finetune.evaluation.suites.suite import Suite, SuiteBuilder, SuiteMetric, find_file
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Sample
from prompts.annotations import Text
from prompts.tasks import find_task

ACCURACY = {"base-ft": 63.6, "large-ft": 73.5}
TOKEN = "<VQA>"


def read_suite(folder: Path) -> Suite:
    """Reads a folder in this layout. Raises DatasetError."""
    path = find_file(folder, "TextVQA*val*.json", needs="TextVQA_0.5.1_val.json")
    content = documents.load_json(path)
    builder = SuiteBuilder(
        [folder / "train_images", folder / "train_val_images/train_images", folder / "images", folder]
    )
    try:
        for row in content["data"]:
            answers = tuple(Text(label=str(answer)) for answer in row["answers"])
            sample = Sample(find_task(TOKEN), answers, text=str(row["question"]))
            builder.add(f"{row['image_id']}.jpg", f"{path.name}: question {row.get('question_id')}", [sample])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not in TextVQA's format: {error!r}") from error

    def compute_metrics(report: EvaluationReport) -> list[SuiteMetric]:
        task = report.tasks.get(TOKEN)
        return [SuiteMetric(TOKEN, "accuracy", 100 * task.metrics["accuracy"], ACCURACY)] if task else []

    return builder.build(compute_metrics)
