"""axe-core (deque.com) on the report's pages in headless Chromium, light and dark, wide and narrow.

Needs `chromium` on the path, and axe-core: `npm install axe-core` anywhere, and its axe.min.js in ALIGNMENT_TEST_AXE.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alignment.pipeline.records.previous import set_aside
from alignment.report.content import collect
from alignment.report.render import render
from alignment.report.runs.compared_runs import compare_runs
from alignment.report.runs.runs_page import render_runs

AXE = Path(os.environ.get("ALIGNMENT_TEST_AXE", "node_modules/axe-core/axe.min.js"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SERIOUS = ("serious", "critical")
SCHEMES = {"dark": 0, "light": 1}  # Chromium's numbers
PROBE = """<script>%s</script><script>
document.querySelectorAll("details").forEach(one => { one.open = true; });
axe.run().then(found => parent.postMessage(JSON.stringify({
  dark: matchMedia("(prefers-color-scheme: dark)").matches, width: innerWidth, passes: found.passes.length,
  violations: found.violations.map(one => ({impact: one.impact, id: one.id, where: one.nodes.map(node => node.html)})),
}), "*"));
</script></body>"""
FRAME = """<!DOCTYPE html><pre id="found"></pre><iframe src="page.html" width="%d" height="900"></iframe>
<script>
addEventListener("message", event => { document.getElementById("found").textContent = event.data; });
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, make_run):
    """A report with a smoke stage and a replaced run, and a comparison of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = (make_run(folder / name, items=8) for name in ("first", "second"))
    record = json.loads((first / "pipeline.json").read_text())
    set_aside("dpo", first, record["stages"]["dpo"])
    again = make_run(folder / "again", items=8)
    shutil.copytree(again / "dpo", first / "dpo")
    for path in again.glob("evals/dpo-*"):
        shutil.copytree(path, first / "evals" / path.name)
    record["stages"]["dpo"]["recipe"] = {"max_steps": 2, "beta": 0.3}
    (first / "pipeline.json").write_text(json.dumps(record))
    report = render(collect(first))
    assert "Smoke run" in report and "Other runs of a stage" in report
    return {"report": report, "comparison": render_runs(compare_runs([first, second]), [first, second])}


def examined(folder: Path, page: str, scheme: str, width: int) -> dict:
    """What axe-core finds in a page, shown in a frame of the given width."""
    (folder / "page.html").write_text(page.replace("</body>", PROBE % AXE.read_text(encoding="utf-8")))
    (folder / "frame.html").write_text(FRAME % width)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    flags += ["--virtual-time-budget=60000", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    flags += [f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
    done = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: set ALIGNMENT_TEST_AXE to its axe.min.js")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_axe_finds_nothing_serious(pages, tmp_path, name, scheme, width):
    found = examined(tmp_path, pages[name], scheme, width)
    assert (found["dark"], found["width"]) == (scheme == "dark", width)
    assert found["passes"] > 20
    assert [one for one in found["violations"] if one["impact"] in SERIOUS] == []
