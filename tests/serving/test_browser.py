"""The pages in headless Chromium: streams, blind votes, results, keyboard, phone width, colours, no other host."""

import json
import shutil

import pytest
from served_tiny import engine_of, post, save_gpt, served_llama
from web_tiny import web_of

from alignment.serving.batching.served_models import load_models, read_names

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright==1.65.2")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium as `chromium`: apt-get install chromium"),
]
expect = sync_api.expect
HTML = "<b onclick=alert(1)>two</b> <script>document.title = 'changed'</script>"
ITEM = {"task": "t", "metric": "acc", "item_id": "7", "target": "den", "output_b": "the moon", "score_b": 0.0}
ITEMS = {
    "comparisons": [
        {
            "a": "base",
            "b": "sft",
            "suite": "tinyworld",
            "format": "chat",
            "counts": {"regressed": 1, "fixed": 0, "unchanged": 1},
            "items": [
                ITEM | {"prompt": f"Where? {HTML}", "output_a": "the den", "score_a": 1.0, "change": "regressed"},
                ITEM | {"prompt": "Who?", "output_a": "the fox", "score_a": 0.0, "change": "unchanged"},
            ],
        }
    ]
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = [f"base={save_gpt(folder / 'gpt')}", f"sft={served_llama(folder / 'llama')}"]
    first, second = load_models(read_names(paths), "cpu")
    with (
        engine_of(first) as base,
        engine_of(second) as sft,
        web_of([base, sft], folder / "votes.jsonl", items=lambda: ITEMS) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def votes(place, tmp_path):
    place[1].votes.path = tmp_path / "votes.jsonl"
    return place[1].votes.path


@pytest.fixture
def open_page(browser, place):
    """Opens a page; afterwards no request went to another host, and the page reported no error."""
    opened, asked, wrong = [], [], []

    def make(path="/", **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(place[0] + path)
        if path == "/":
            expect(page.locator("#models input")).to_have_count(2)
        opened.append(context)
        return page

    yield make
    for context in opened:
        context.close()
    assert asked and all(url.startswith(f"{place[0]}/") for url in asked)
    assert not wrong


def send(page, text) -> None:
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")


def width_of(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_side_by_side(open_page, place):
    """Both models reply, over several turns, as the API does; texts are never HTML."""
    page = open_page()
    page.locator("#system").fill("one")
    page.locator("#temperature").fill("1")
    page.locator("#seed").fill("5")
    page.locator("#most").fill("12")
    send(page, f"one {HTML}")
    expect(page.get_by_role("button", name="Log-probs")).to_have_count(2)
    expect(page.locator("#status")).to_have_text("2 of 2 replies are complete.")
    send(page, "and three?")
    expect(page.get_by_role("button", name="Log-probs")).to_have_count(4)
    assert page.locator(".column b, .column script").count() == 0 and page.title() == "align: chat"
    assert page.locator(".turn.user .text").first.text_content() == f"one {HTML}"
    for index, name in enumerate(("base", "sft")):
        column = page.locator(".column").nth(index)
        texts = column.locator(".turn:not(.user) .text").all()
        turns = [{"role": "system", "content": "one"}]
        for question, text in zip((f"one {HTML}", "and three?"), texts, strict=True):
            turns.append({"role": "user", "content": question})
            body = {"model": name, "messages": turns, "seed": 5, "max_tokens": 12, "temperature": 1.0}
            said = post(place[0], json=body).json()["choices"][0]["message"]["content"]
            turns.append({"role": "assistant", "content": said})
            assert text.text_content() == said


def test_streams_arrive_in_parts_and_can_be_stopped(open_page):
    page = open_page()
    page.evaluate("window.seen = []")
    page.evaluate(
        "new MutationObserver(() => window.seen.push(document.querySelectorAll('.busy').length))"
        ".observe(document.getElementById('columns'), {childList: true, subtree: true})"
    )
    page.locator("#most").fill("200")
    send(page, "one")
    expect(page.locator(".busy")).to_have_count(2)
    expect(page.locator("[aria-busy=true]")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".busy")).to_have_count(0)
    assert page.evaluate("window.seen.filter((busy) => busy === 2).length") > 2
    expect(page.locator(".foot .error").first).to_have_text("stopped")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_blind_votes_by_keyboard_alone(open_page, votes):
    """From the top of the page to four stored votes with Tab, arrows, letters and Enter."""
    page = open_page()
    page.locator("nav a").last.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#blind")).to_be_checked()
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "message":
            break
        page.keyboard.press("Tab")
    for letter in "abtn":
        expect(page.locator("#message")).to_be_focused()
        page.keyboard.type("one two")
        page.keyboard.press("Enter")
        expect(page.locator("#vote")).to_be_focused()
        shown = [page.locator(".column h2").nth(index).text_content() for index in (0, 1)]
        assert shown == ["A", "B"] and "sft" not in page.locator("#columns").text_content()
        texts = [one.text_content() for one in page.locator(".column .turn:last-child .text").all()]
        page.keyboard.press(letter)
        expect(page.locator("#status")).to_contain_text("Stored")
        row = rows(votes)[-1]
        assert [row["replies"][side] for side in "ab"] == texts
        for index, side in enumerate("ab"):
            expect(page.locator(".column h2").nth(index)).to_have_text("AB"[index] + f": {row['models'][side]['name']}")
    assert [row["vote"] for row in rows(votes)] == ["a", "b", "tie", "both_bad"]
    # A reply that was preferred is part of the next prompt; after "both bad" the question is not.
    assert rows(votes)[1]["prompt"][:2] == [*rows(votes)[0]["prompt"], *rows(votes)[0]["chosen"]]
    page.keyboard.type("three")
    page.keyboard.press("Enter")
    expect(page.locator("#vote")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Stored: A is better")
    assert len(rows(votes)[-1]["prompt"]) == len(rows(votes)[3]["prompt"])


def test_log_probabilities_on_demand(open_page):
    page = open_page()
    send(page, "one two")
    expect(page.get_by_role("button", name="Log-probs")).to_have_count(2)
    button = page.get_by_role("button", name="Log-probs").first
    text = page.locator(".turn:not(.user) .text").first
    said = text.text_content()
    page.get_by_label("Model that scores this reply").first.select_option("sft")
    button.click()
    expect(page.locator(".heat").first).to_contain_text("Under sft:")
    expect(page.locator(".heat").first).to_contain_text("Least likely:")
    assert text.text_content() == said and text.locator("span").count() > 1
    expect(button).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_and_colours(open_page, votes, scheme):
    """No page scrolls sideways at 390 px; text and page have the scheme's colours."""
    page = open_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.locator("#blind").check()
    for letter in "ab":
        send(page, "one " + "x" * 60)
        expect(page.locator("#vote")).to_be_focused()
        expect(page.get_by_role("button", name="Both bad")).to_be_in_viewport()
        assert width_of(page) == 390
        page.keyboard.press(letter)
        expect(page.locator("#status")).to_contain_text("Stored")
        page.get_by_role("button", name="New conversation").click()
    for path, there in (("/results", "table"), ("/items", "article")):
        page.goto(page.url.split("/", 3)[0] + "//" + page.url.split("/")[2] + path)
        expect(page.locator(there).first).to_be_visible()
        assert width_of(page) == 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]


def test_results(open_page, votes):
    page = open_page("/results")
    expect(page.locator("#status")).to_contain_text("votes.jsonl has no votes yet")
    page = open_page()
    page.locator("#blind").check()
    for _ in range(3):
        send(page, "one two")
        expect(page.locator("#vote")).to_be_focused()
        page.keyboard.press("a")
        expect(page.locator("#status")).to_contain_text("Stored")
    page.get_by_role("link", name="Results").click()
    expect(page.locator("#status")).to_have_text(
        "3 votes on 3 prompts in votes.jsonl: 3 with a winner, 0 ties, 0 both bad."
    )
    expect(page.get_by_role("rowheader", name="base over sft")).to_be_visible()
    expect(page.get_by_text("The reply shown first (A) won 100.0% of 3 votes")).to_be_visible()
    expect(page.locator("svg rect.a")).not_to_have_count(0)


def test_items(open_page):
    page = open_page("/items")
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article strong").first).to_have_text("regressed")
    assert page.locator("article b, article script").count() == 0
    page.get_by_label("Change").select_option("unchanged")
    expect(page.locator("article")).to_have_count(1)
    page.get_by_label("Contains").fill("nothing like it")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#status")).to_contain_text("1 regressed, 0 fixed, 1 unchanged. 0 match.")


def test_every_control_has_a_name(open_page):
    """As assistive technology reads it, with the vote shown."""
    page = open_page()
    page.locator("#blind").check()
    send(page, "one")
    expect(page.locator("#vote")).to_be_focused()
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select, button')].filter((one) => !one.labels?.length &&"
        " !one.getAttribute('aria-label') && !one.textContent.trim()).length"
    )
    assert nameless == 0 and page.get_by_role("group", name="Which reply is better?").count() == 1
    assert page.locator("[aria-live=polite]").count() >= 1 and page.locator("html[lang=en]").count() == 1
