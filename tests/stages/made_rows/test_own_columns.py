"""What a row keeps of the row that it was made from: nothing that is about another reply."""

from alignment.stages.made_rows.own_columns import of_pair_alone, reversed_pair, without_replies

SOURCE = {
    "prompt": "p",
    "messages": ["old"],
    "completion": "old",
    "chosen": "old",
    "rejected": "old",
    "gold_chosen": 1,
    "rejected_score": 2,
    "margin": 3,
    "label": True,
    "score": 4,
    "answer": "42",
    "task": "t",
}


def test_replies_labels_and_scores_of_the_source_are_no_columns_of_a_new_reply():
    assert without_replies(SOURCE) == {"prompt": "p", "answer": "42", "task": "t"}


def test_a_pair_keeps_what_is_about_its_sides_alone():
    kept = {"prompt", "chosen", "rejected", "gold_chosen", "rejected_score", "answer", "task", "score"}
    assert of_pair_alone(SOURCE).keys() == kept


def test_columns_follow_their_reply_by_either_end_of_their_name():
    pair = {"chosen": "a", "rejected": "b", "gold_chosen": 1, "chosen_score": 2, "rejected_score": 3, "prompt": "p"}
    assert reversed_pair(pair) == {
        "rejected": "a",
        "chosen": "b",
        "gold_rejected": 1,
        "rejected_score": 2,
        "chosen_score": 3,
        "prompt": "p",
    }
    assert reversed_pair(reversed_pair(pair)) == pair


def test_the_names_of_the_models_follow_their_replies():
    pair = {"chosen": "a", "rejected": "b", "model_a": "ppo", "model_b": "sft"}
    assert reversed_pair(pair) == {"chosen": "b", "rejected": "a", "model_a": "sft", "model_b": "ppo"}
    assert without_replies(pair) == {}
