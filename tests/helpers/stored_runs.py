"""Eval runs on disk, made without a model."""

import pandas

from eval.harness.store import save_run


def make_run(
    folder, stage, scores, *, higher_is_better=True, clusters=None, weights=None, metric="exact_match", **changes
):
    """A stored run with the tasks of `scores` (task -> list) and their macro mean, without a model."""
    items = pandas.DataFrame(
        [
            {
                "task": task,
                "metric": metric,
                "item_id": f"{task}-{i}",
                "cluster": clusters[i] if clusters else f"{task}-{i}",
                "prompt": f"{task} {i}?",
                "target": "!",
                "output": f"{stage} says {score:g}",
                "score": float(score),
                "weight": weights[i] if weights else 1.0,
                "gen_len": 1,
                "truncated": False,
            }
            for task, values in scores.items()
            for i, score in enumerate(values)
        ]
    )
    figure = {"metric": metric, "is_mean": True, "higher_is_better": higher_is_better, "members": None, "pooled": False}
    record = {
        "run_id": f"{stage}-toy-plain",
        "suite": "toy",
        "format": "plain",
        "stage": stage,
        "settings": {"num_fewshot": None, "limit": None},
        "suite_digest": "d",
        "template_digest": "t",
        "seeds": {"fewshot": 0, "sampling": 0},
        "versions": {"lm_eval": "0.4.13"},
        "tasks": [figure | {"task": task} for task in scores] + [figure | {"task": "toy", "members": list(scores)}],
    }
    save_run(folder, record | changes, items)
    return folder
