"""What the data keys refuse, and how they say it."""

import pytest

from alignment.data.arguments import DataArguments, Source
from alignment.errors import UserError, UserErrors


def test_the_plain_keys_make_one_source():
    args = DataArguments(
        "a", dataset_config="c", dataset_train_split="s", dataset_test_split="t", columns={"q": "prompt"}
    )
    assert args.sources() == [Source("a", "c", "s", "t", {"q": "prompt"})]
    assert args.title == "a, c"


def test_datasets_make_several():
    args = DataArguments(
        datasets=[{"name": "a", "weight": 2, "max_rows": 5}, {"name": "b", "weight": 0.5, "epochs": 2}]
    )
    assert args.sources() == [Source("a", weight=2, max_rows=5), Source("b", weight=0.5, epochs=2)]
    assert args.title == "a, b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got:      neither"),
        ({"dataset_name": "a", "datasets": [{"name": "b"}]}, "got:      both"),
        ({"datasets": []}, "names no source"),
        ({"datasets": [{"name": "a", "wieght": 1}]}, "unknown key 'wieght'(.|\n)*did you mean 'weight'"),
        ({"datasets": [{"name": "a", "path": 1}]}, "unknown key 'path'(.|\n)*valid: name, config, split"),
        ({"datasets": [{"weight": 1}]}, "a source has no name"),
        ({"datasets": [{"name": "a", "weight": 0}]}, "weight leaves no rows of a"),
        ({"datasets": [{"name": "a", "weight": "1"}]}, "weight leaves no rows of a"),
        ({"datasets": [{"name": "a", "max_rows": 2.5}]}, "max_rows leaves no rows of a"),
        ({"datasets": [{"name": "a", "epochs": None}]}, "epochs leaves no rows of a"),
        ({"datasets": [{"name": "a", "split": 3}]}, "split cannot take this value"),
        ({"datasets": [{"name": "a", "columns": ["q"]}]}, "columns cannot take this value"),
        ({"datasets": [{"name": "a", "weight": 1}, {"name": "b"}]}, "no weight for b"),
        ({"datasets": [{"name": "a"}, {"name": "a"}]}, "a occurs twice"),
        ({"datasets": [{"name": "a"}], "columns": {"q": "prompt"}}, "columns belongs to dataset_name"),
        ({"datasets": [{"name": "a"}], "dataset_test_split": "test"}, "dataset_test_split belongs to dataset_name"),
        ({"dataset_name": "a", "dataset_test_split": "train"}, "validated on its training split"),
        ({"datasets": [{"name": "a", "split": "x", "test_split": "x"}]}, "validated on its training split"),
        ({"dataset_name": "a", "min_characters": 9, "max_characters": 3}, "limits on characters leave no rows"),
        ({"dataset_name": "a", "near_duplicate_threshold": 80}, "near_duplicate_threshold is not a share"),
        ({"dataset_name": "a", "decontaminate_ngram": 0}, "decontaminate_ngram leaves no rows"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        DataArguments(**options)


def test_all_mistakes_of_a_mixture_are_told_at_once():
    with pytest.raises(UserErrors) as error:
        DataArguments(datasets=[{"name": "a", "wieght": 1}, {"name": "b", "epochs": -1}, {"split": "train"}])
    assert len(error.value.errors) == 3


def test_a_source_may_stand_twice_with_other_columns():
    entries = [{"name": "a", "columns": {"q1": "text"}}, {"name": "a", "columns": {"q2": "text"}}]
    assert len(DataArguments(datasets=entries).sources()) == 2
