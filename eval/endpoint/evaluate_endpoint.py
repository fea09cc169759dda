"""Run eval suites on a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.unwritable import make_folder, require_writable
from alignment.errors import UserError
from eval.conditions.eval_options import require_options
from eval.conditions.left_out import note
from eval.conditions.said_once import said_once
from eval.conditions.suite_identity import suite_source
from eval.endpoint.address import ROUTES, Endpoint
from eval.endpoint.answerable import is_sampled, require_answerable, require_generative
from eval.endpoint.endpoint_client import TIMEOUT, EndpointClient, EndpointRefuses, PromptTooLong
from eval.endpoint.said import read_said
from eval.harness.run_suite import random_states_kept, run_folders, run_tasks, set_seeds
from eval.harness.store import save_run
from reward_models.judges.answer_store import AnswerStore
from reward_models.judges.api import GaveUp

if TYPE_CHECKING:
    from eval.endpoint.endpoint_lm import EndpointLM
    from eval.harness.suite import Suite

logger = logging.getLogger(__name__)
CONCURRENCY = 8  # requests at a time
REPLIES = "replies.jsonl"  # of an evaluation that is not complete, in the run's folder
PROBE = "Hello"
LACKS_ROUTE = (400, 404, 405, 422, 501)  # HTTP statuses of a server without a route, or a model without a template
UNKNOWN = "weights, tokenizer, chat template, context and precision: an endpoint shows none of them"
Asked = tuple[str, str, "Suite"]  # suite as given, format, loaded suite


@said_once()
def evaluate_endpoint(
    endpoint: Endpoint,
    suites: list[str],
    formats: list[str],
    output_dir: str | Path,
    *,
    num_fewshot: int | None = None,
    batch_size: int = CONCURRENCY,
    limit: int | None = None,
    seed: int = 0,
    suite_args: dict | None = None,
    variant: dict | None = None,
    too_long: str = "skip",
    timeout: float = TIMEOUT,
) -> list[dict]:
    """Run suites of generated replies on a model behind an endpoint, as `evaluate_many` does on a checkpoint.

    Replies are stored as they arrive, in the run's folder, so that an interrupted evaluation resumes; a complete one
    has run.json and items.parquet alone. Nothing is asked before all suites are loaded and found answerable, and one
    short request per format has shown that the server answers.

    Args:
        endpoint: the model.
        suites, formats, output_dir, variant: as for `evaluate_many`. plain is asked at /completions, chat at
            /chat/completions. If several formats are asked for, a format that the server refuses is left out with a
            warning.
        batch_size: requests at a time.
        num_fewshot, limit, seed, suite_args: as for `evaluate`. The seed of sampled replies is sent with the requests.
        too_long: as for `evaluate`; an item is too long if the server says so.
        timeout: seconds that the server may be silent in a request.

    Returns:
        The records of the runs, in the order of the suites.

    Raises:
        UserError: a suite cannot be answered, the server does not answer or refuses, an option is out of range, or a
            run's folder holds a run of another endpoint or suite.
    """
    from eval.harness.suite import load_suite, require_format, suite_formats

    options = {"num_fewshot": num_fewshot, "limit": limit, "batch_size": batch_size, "too_long": too_long}
    require_options(**options, seed=seed, suite_args=suite_args)
    if not timeout > 0:
        raise UserError("timeout is out of range", got=timeout, expected="more than 0 seconds")
    suites = list(dict.fromkeys(suites))
    require_generative(suites)
    for suite in suites:
        if not set(formats) & set(suite_formats(suite)):
            require_format(suite, formats[0])
    require_writable(output_dir)
    client = EndpointClient(endpoint, timeout=timeout)
    with random_states_kept():
        asked = [
            (suite, format, load_suite(suite, format, num_fewshot=num_fewshot, suite_args=suite_args))
            for suite in suites
            for format in formats
            if format in suite_formats(suite)
        ]
        require_answerable(asked)
        answered = _answered(client, list(dict.fromkeys(format for _, format, _ in asked)))
        asked = [one for one in asked if one[1] in answered]
        runs = [(suite, format) for suite, format, _ in asked]
        folders = run_folders(
            endpoint.name, endpoint.stage, runs, {name: variant or {} for name in formats}, output_dir
        )
        settings = options | {"chat_template": None, "suite_args": suite_args or {}}
        return [
            _evaluate(client, one, folder, seed, settings, variant or {})
            for one, folder in zip(asked, folders, strict=True)
        ]


def _evaluate(client: EndpointClient, asked: Asked, folder: Path, seed: int, settings: dict, variant: dict) -> dict:
    """Run one suite in one format, and write run.json and items.parquet."""
    from eval.endpoint.endpoint_lm import ChatEndpoint, PlainEndpoint

    spec, format, suite = asked
    started, endpoint, before = time.perf_counter(), client.endpoint, client.retried
    record = {
        "run_id": folder.name,
        "suite": suite.name,
        "suite_source": suite_source(spec),
        "format": format,
        "variant": variant,
        "stage": endpoint.stage,
        "parent": None,
        "checkpoint": endpoint.name,
        "settings": settings,
        "seeds": {"fewshot": seed, "sampling": seed},
    }
    make_folder(folder)
    with AnswerStore(folder / REPLIES) as store:
        lm = {"plain": PlainEndpoint, "chat": ChatEndpoint}[format](
            client,
            store,
            concurrency=settings["batch_size"],
            seed=seed,
            too_long=settings["too_long"],
            with_examples=[name for name, task in suite.tasks.items() if task.config.num_fewshot],
        )
        set_seeds(suite, seed)
        items, figures = run_tasks(suite, lm, format, settings["limit"])
    about = _about(lm, suite) | {"retried": client.retried - before}
    for line in note(record | figures):
        logger.warning(line)
    digests = dict.fromkeys(("checkpoint_digest", "tokenizer_digest", "template_digest"))
    record |= {"endpoint": about, **digests} | figures | {"seconds": round(time.perf_counter() - started, 2)}
    record = save_run(folder, record, items)
    store.path.unlink()
    return record


def _about(lm: EndpointLM, suite: Suite) -> dict:
    """What run.json says about the endpoint: its address, and what it said about itself."""
    endpoint = lm.client.endpoint
    names = sorted({said.model for said in lm.said if said.model})
    systems = sorted({said.fingerprint for said in lm.said if said.fingerprint})
    for what, found in (("models", names), ("system fingerprints", systems)):
        if len(found) > 1:
            logger.warning(
                "%s reported several %s, so that replies may be of different weights: %s",
                *(endpoint.name, what, ", ".join(found)),
            )
    about = {
        "url": endpoint.url,
        "model": endpoint.model,
        "unknown": UNKNOWN,
        "reported_models": names,
        "system_fingerprints": systems,
        "asked": lm.asked,
        "resumed": lm.resumed,
        "null_replies": sum(said.text is None for said in lm.said),
    }
    if any(is_sampled(task) for task in suite.tasks.values()):
        about["sampling"] = "a seed of its own was sent with each request; that replies depend on it is not promised"
    return about


def _answered(client: EndpointClient, formats: list[str]) -> list[str]:
    """The formats in which the server answers one short request.

    A list of models would not show that the key may use the model, nor which routes there are.

    Raises:
        UserError: the server does not answer, or in none of the formats.
    """
    answered, refused = [], {}
    for format in formats:
        messages = [{"role": "user", "content": PROBE}]
        payload: dict[str, Any] = {"prompt": PROBE} if format == "plain" else {"messages": messages}
        payload |= {"model": client.endpoint.model, "max_tokens": 1, "temperature": 0}
        try:
            client.ask(ROUTES[format], payload, read_said, wait_for_server=False)
            answered.append(format)
        except EndpointRefuses as error:
            if error.status not in LACKS_ROUTE:
                raise
            refused[format] = error
        except (GaveUp, PromptTooLong) as error:
            raise UserError(
                f"No answer from {client.endpoint.name}.", got=error, fix="check --endpoint, and that the server runs"
            ) from None
    if not answered:
        first = next(iter(refused.values()))
        raise EndpointRefuses(client.endpoint, first.status, first.said, client.models())
    for format, refusal in refused.items():
        logger.warning(
            "%s is not asked in the %s format: POST %s gives %s",
            *(client.endpoint.name, format, ROUTES[format], refusal.said),
        )
    return answered
