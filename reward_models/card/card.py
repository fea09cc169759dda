"""A reward card as files: reward_card.json for programs, reward_card.md for people."""

from pathlib import Path

from alignment.durable.atomic import write_json, write_text
from alignment.durable.unwritable import make_folder
from alignment.text import markdown_table, percent

CARD_FILE = "reward_card.json"


def write_card(folder: Path, card: dict, title: str) -> None:
    """Write both files into a folder, replacing earlier ones."""
    make_folder(folder)
    write_json(folder / CARD_FILE, card)
    write_text((folder / CARD_FILE).with_suffix(".md"), f"# Reward card of {title}\n\n{card_markdown(card)}\n")


def card_markdown(card: dict) -> str:
    """The card as Markdown tables, without the sections for which it has no figures."""
    parts = []
    if card.get("n"):
        parts += [_summary(card)]
        for key, title, head in (
            ("by_margin", "By margin of the scores", "margin"),
            ("by_length", "By words of the preferred reply minus words of the other", "words"),
            ("by_gap", "By gap of the gold rewards", "gap"),
        ):
            if card.get(key):
                parts.append(_table(title, head, [(_range(one), one) for one in card[key]]))
        if card.get("by_subset"):
            parts.append(_table("By subset", "subset", [(one["name"], one) for one in card["by_subset"]]))
    if "calibration" in card:
        parts.append(_calibration(card["calibration"]))
    if "scores" in card:
        parts.append(_scores(card["scores"], card.get("drift")))
    if card.get("best_of_n"):
        parts.append(_best_of_n(card["best_of_n"]))
    return "\n\n".join(parts)


def _summary(card: dict) -> str:
    reasons = {"left_out": f"with a gold gap below {card.get('min_gap')}", "unscored": "without a score"}
    without = " ".join(f"{card[key]} pairs {why} are left out." for key, why in reasons.items() if card.get(key))
    interval = "" if card["se"] is None else f" (standard error {card['se']:.3f})"
    text = (
        f"Accuracy **{card['accuracy']:.1%}** on {card['n']} pairs{interval}; a tie counts half. "
        f"Always preferring the {card['length_rule']} reply would have {card['length_baseline']:.1%}."
    )
    return f"{text} {without}".strip()


def _table(title: str, head: str, rows: list[tuple[str, dict]]) -> str:
    cells = [[name, one["n"], percent(one["accuracy"], missing="")] for name, one in rows]
    return f"**{title}**\n\n{markdown_table([head, 'pairs', 'accuracy'], cells)}"


def _range(one: dict) -> str:
    return f"{one['low']:.3g} to {one['high']:.3g}"


def _calibration(found: dict) -> str:
    text = (
        f"**Calibration** of sigmoid(margin) as the probability that the chosen reply is preferred: expected "
        f"calibration error {found['ece']:.3f}, Brier score {found['brier']:.3f}, log loss {found['log_loss']:.3f}."
    )
    rows = [
        [f"{one['low']:.2f} to {one['high']:.2f}", one["n"], f"{one['confidence']:.3f}", f"{one['accuracy']:.3f}"]
        for one in found["bins"]
        if one["n"]
    ]
    return f"{text}\n\n{markdown_table(['confidence', 'pairs', 'mean', 'accuracy'], rows)}"


def _scores(found: dict, drift: dict | None) -> str:
    correlation = found["length_correlation"]
    text = f"**Scores** of {found['n']} replies: mean {found['mean']:.3f}, standard deviation {found['std']:.3f}"
    text += "." if correlation is None else f", correlation with the length in words {correlation:+.2f}."
    if drift and drift["mean_shift"] is not None:
        text += (
            f" Since {drift['since']} the mean moved by {drift['mean_shift']:+.2f} of the earlier standard deviations, "
            f"and the standard deviation changed by a factor of {drift['std_ratio']:.2f}."
        )
    return text


def _best_of_n(curve: list[dict]) -> str:
    rows = []
    for one in curve:
        error = "" if one["gold_se"] is None else f" +- {1.96 * one['gold_se']:.3f}"
        rows.append([one["n"], f"{one['kl']:.2f}", f"{one['proxy']:.3f}", f"{one['gold']:.3f}{error}"])
    return f"**Best of n** by this reward\n\n{markdown_table(['n', 'nats', 'reward', 'gold'], rows)}"
