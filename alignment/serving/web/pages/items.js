// The items of an evaluation with the outputs of two checkpoints.

import { $, ask, element } from "./shared.js";

const PAGE = 25;
const TEXTS = ["prompt", "target", "output_a", "output_b", "item_id", "task"];
let comparisons = [];
let shown = PAGE;

function item(one, { a, b }) {
  const score = (value) => (value === null ? "–" : `${Number(value.toFixed(4))}`);
  const output = (name, text, value) => element("section", { class: "column" },
    element("h2", {}, `${name}: ${score(value)}`), element("pre", { class: "log" }, text || "(no output)"));
  return element("article", { class: "item" },
    element("div", {}, element("strong", { class: one.change }, one.change), ` ${one.task}, ${one.metric}, item ${one.item_id}`),
    element("pre", {}, one.prompt),
    ...(one.target ? [element("div", { class: "soft" }, "Target"), element("pre", {}, one.target)] : []),
    element("div", { class: "columns" }, output(a, one.output_a, one.score_a), output(b, one.output_b, one.score_b)));
}

function render() {
  const found = comparisons[$("comparison").value];
  const [change, text] = [$("change").value, $("text").value.toLowerCase()];
  const matching = found.items.filter((one) => (!change || one.change === change) &&
    (!text || TEXTS.some((name) => one[name].toLowerCase().includes(text))));
  const { regressed, fixed, unchanged } = found.counts;
  const cut = found.items.length < regressed + fixed + unchanged ? ` The first ${found.items.length} are here.` : "";
  $("status").textContent = `${found.a} to ${found.b}: ${regressed} regressed, ${fixed} fixed, ${unchanged} unchanged.${cut} ` +
    `${matching.length} match.`;
  $("items").replaceChildren(...matching.slice(0, shown).map((one) => item(one, found)));
  $("more").hidden = matching.length <= shown;
}

function again() {
  shown = PAGE;
  render();
}

async function start() {
  $("status").textContent = "Looking for evaluations.";
  comparisons = (await (await ask("/web/items")).json()).comparisons;
  if (!comparisons.length) {
    $("status").textContent = "No two of the served checkpoints have an evaluation in common: " +
      "run align eval on both with the same suite.";
    return;
  }
  comparisons.forEach(({ a, b, suite, format }, index) =>
    $("comparison").append(element("option", { value: index }, `${a} to ${b}: ${suite}, ${format}`)));
  $("choose").hidden = false;
  render();
}

$("choose").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["comparison", "change"]) $(name).addEventListener("change", again);
$("text").addEventListener("input", again);
$("more").addEventListener("click", () => { shown += PAGE; render(); });
start().catch((error) => {
  $("status").textContent = error.message;
  $("status").className = "error";
});
