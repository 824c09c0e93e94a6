"""The family of tasks whose examples get one class, or one number."""

from pathlib import Path

import numpy as np
import pytest

from genft import ConfigError
from genft.data import Split, Task
from genft.families.registry import get_family
from genft.models.source import find_model
from genft.runs.settings import Training

TEXT = Task(name="t", kind="text", reader="", classes=("no", "yes", "maybe"))
RATING = Task(name="r", kind="text", reader="", regression=True, metric="pearson")
IMAGE = Task(name="i", kind="image", reader="", classes=("cat", "dog"), metric="f1")


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task 't': family: 'clasification' .*nearest: 'classification'"):
        get_family(TEXT.model_copy(update={"family": "clasification"}))


def test_heads_and_their_names() -> None:
    text, rating, image = (get_family(task) for task in (TEXT, RATING, IMAGE))
    assert (text.head.auto_class, text.head.task_type) == ("AutoModelForSequenceClassification", "SEQ_CLS")
    assert (image.head.auto_class, image.head.task_type) == ("AutoModelForImageClassification", None)
    assert [family.head.config["num_labels"] for family in (text, rating, image)] == [3, 1, 2]
    assert [family.answers for family in (text, rating, image)] == ["3 classes", "a number", "2 classes"]
    assert [family.by_class for family in (text, rating, image)] == [True, False, True]


@pytest.mark.parametrize(
    ("task", "training", "sentence"),
    [
        (RATING, {"label_smoothing": 0.1}, "label_smoothing: applies to classes"),
        (TEXT, {"augment": "crop"}, "augment: applies to images"),
        (TEXT.model_copy(update={"metric": "pearson"}), {}, r"metric: 'pearson' cannot score this task"),
        (TEXT.model_copy(update={"metric": "f1"}), {}, r"metric: 'f1' cannot score this task \(it needs 2 classes\)"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(task: Task, training: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        get_family(task).check(Training.model_validate(training))
    get_family(IMAGE).check(Training(label_smoothing=0.1, augment="crop"))


def test_outputs_become_predictions_scores_and_answers() -> None:
    text, rating = get_family(TEXT), get_family(RATING)
    logits = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    predicted = text.predictions(logits)
    assert predicted.tolist() == [0, 1]
    assert text.compact(predicted).dtype == np.uint16
    assert text.scores(predicted, np.array([0, 2])).keys() == {"accuracy", "macro_f1", "matthews"}
    assert text.answer([0.1, 0.7, 0.2]) == {"predicted": "yes", "probability": 0.7}
    assert rating.predictions(np.array([[0.5], [0.25]])).tolist() == [0.5, 0.25]
    assert rating.compact(np.array([0.5])).dtype == np.float32
    assert rating.answer([0.5]) == {"value": 0.5}


def test_labels_are_numbers_of_the_right_type(bert: Path) -> None:
    split = Split((("w1",), ("w2 w3",)), (1.0, 0.0))
    for task, kind in ((TEXT, int), (RATING, float)):
        family = get_family(task)
        loaded = family.load(find_model(str(bert)))
        items = [family.encode(split, loaded)[i] for i in range(2)]
        assert [type(item["labels"]) for item in items] == [kind, kind]
        batch = family.collator(loaded)(items)
        assert batch["input_ids"].shape == (2, 8)  # padded to a multiple of eight tokens
