"""The family of tasks whose examples get one class, or one number."""

from pathlib import Path

import numpy as np
import pytest

from genft import ConfigError
from genft.data import Split, Task
from genft.families.metrics import same_for_all
from genft.families.registry import get_family
from genft.families.standardised import Scale, output_layer
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


def test_targets_are_standardised_in_training_and_predictions_are_not(bert: Path) -> None:
    split = Split((("w1",), ("w2 w3",), ("w4",)), (1.0, 3.0, 5.0))
    family = get_family(RATING)
    loaded = family.load(find_model(str(bert)))
    learns = family.for_training(split, loaded)
    data = learns.encode(split, loaded)
    assert np.mean([data[i]["labels"] for i in range(3)]) == pytest.approx(0, abs=1e-12)
    assert np.std([data[i]["labels"] for i in range(3)]) == pytest.approx(1)
    assert learns.targets(np.array([data[i]["labels"] for i in range(3)])) == pytest.approx([1, 3, 5])
    assert [family.encode(split, loaded)[i]["labels"] for i in range(3)] == [1, 3, 5]

    model = loaded.model.eval()
    batch = {
        key: value for key, value in family.collator(loaded)([data[i] for i in range(3)]).items() if key != "labels"
    }
    before = learns.predictions(model(**batch).logits.detach().double().numpy())
    learns.finish(model, loaded)
    after = family.predictions(model(**batch).logits.detach().double().numpy())
    np.testing.assert_allclose(after, before, rtol=1e-6)
    family.finish(model, loaded)  # the family that reports has nothing to fold
    np.testing.assert_array_equal(family.predictions(model(**batch).logits.detach().double().numpy()), after)


def test_a_head_without_a_bias_learns_targets_around_zero(bert: Path) -> None:
    split = Split((("w1",), ("w2",)), (3.0, 4.0))
    family = get_family(RATING)
    loaded = family.load(find_model(str(bert)))
    layer = output_layer(loaded.model, loaded.head)
    assert layer is loaded.model.classifier
    layer.bias = None
    assert family.for_training(split, loaded).scale == Scale(0.0, 12.5**0.5)


def test_classes_and_equal_targets_have_no_scale(bert: Path) -> None:
    family = get_family(TEXT)
    assert family.for_training(Split((("w1",),), (1.0,)), family.load(find_model(str(bert)))) is family
    assert Scale.of([2.0, 2.0]) == Scale(2.0, 1.0)


def test_constant_predictions_are_known_as_such() -> None:
    target = np.array([0.0, 1.0, 4.0])
    assert same_for_all(np.array([1.5, 1.5 + 1e-9, 1.5]), target)
    assert not same_for_all(np.array([1.5, 1.51, 1.5]), target)
    assert same_for_all(np.array([1, 1, 1]), target.astype(int))
    assert not same_for_all(np.array([1, 1, 1]), np.array([1, 1, 1]))
    assert not same_for_all(np.array([1]), np.array([0]))
