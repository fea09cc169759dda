// The chat: models side by side, or two of them blind with a vote.

import { $, ask, element } from "./shared.js";
import { pastTurn, Reply } from "./replies.js";

const SAID = { a: "A is better", b: "B is better", tie: "tie", both_bad: "both bad" };
const KEYS = { a: "a", b: "b", t: "tie", n: "both_bad" };

let models = [];
let columns = []; // {name, log, title, turns}: turns are messages; in blind mode both columns have the same
let running = null; // AbortController of the replies in progress
let comparison = null; // {id, question, replies} that waits for a vote

const blind = () => $("blind").checked;
const chosen = () => models.map(({ name }) => name).filter((name, index) => $(`model-${index}`).checked);
const say = (text, wrong = false) => {
  $("status").textContent = text;
  $("status").className = wrong ? "error" : "";
};

function asked(turns) {
  const system = $("system").value.trim();
  const seed = $("seed").value.trim();
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    temperature: Number($("temperature").value),
    ...(seed ? { seed: Number(seed) } : {}),
    max_tokens: Number($("most").value),
  };
}

function column(name, title, side) {
  const log = element("div", { class: "log", role: "log", "aria-label": `Conversation with ${title}`, tabindex: "-1" });
  const heading = element("h2", {}, title);
  $("columns").append(element("section", { class: `column ${side}`, "aria-label": title }, heading, log));
  return { name, log, heading, turns: [] };
}

function anew() {
  running?.abort();
  comparison = null;
  $("columns").replaceChildren();
  columns = blind()
    ? [column(null, "A", "side-a"), column(null, "B", "side-b")]
    : chosen().map((name) => column(name, name, ""));
  const plain = models.filter(({ name, has_template }) => !has_template && chosen().includes(name));
  const least = blind() ? 2 : 1;
  const few = chosen().length < least;
  $("hint").textContent = few ? `Choose ${least === 1 ? "a model" : "two models or more"}.` : [
    blind() ? "Two of the chosen models reply in a random order; who is who is shown after the vote." : "",
    plain.length ? `Without a chat template, ${plain.map(({ name }) => name).join(", ")} ` +
      `${plain.length > 1 ? "complete" : "completes"} your last message.` : "",
  ].join(" ").trim();
  enable();
  say("");
}

function enable() {
  const busy = running !== null;
  $("send").disabled = busy || comparison !== null || chosen().length < (blind() ? 2 : 1);
  $("stop").disabled = !busy;
  $("vote").hidden = comparison === null;
  $("write").hidden = comparison !== null; // the vote takes its place
}

async function replied(one, label, question, request) {
  one.log.append(pastTurn(question));
  const reply = new Reply(label);
  one.log.append(reply.box);
  if (one === columns[0]) reply.box.scrollIntoView({ block: "nearest" });
  try {
    return { reply, ended: await reply.read(await request()) };
  } catch (error) {
    reply.failed(error);
    return { reply, ended: null };
  }
}

async function sideBySide(question) {
  const signal = running.signal;
  const names = models.map(({ name }) => name);
  let done = 0;
  const found = await Promise.all(columns.map(async (one) => {
    const turns = [...one.turns, { role: "user", content: question }];
    const body = asked(turns);
    const { reply, ended } = await replied(one, one.name, question,
      () => ask("/web/reply", { ...body, model: one.name }, signal));
    if (ended === null) return false;
    one.turns = [...turns, { role: "assistant", content: ended.text }];
    reply.offerScores(names, one.name, body.messages, ended.text);
    done += 1;
    if (!signal.aborted) say(`${done} of ${columns.length} replies are complete.`);
    return true;
  }));
  return found.every(Boolean);
}

async function compare(question) {
  const signal = running.signal;
  const turns = [...columns[0].turns, { role: "user", content: question }];
  const body = asked(turns);
  columns.forEach((one, index) => {
    one.heading.textContent = "AB"[index];
    one.log.replaceChildren(...one.turns.map(({ role, content }) =>
      role === "user" ? pastTurn(content) : pastTurn(content, "Reply kept after a vote", "")));
  });
  const { id } = await (await ask("/web/comparisons", { ...body, models: chosen() }, signal)).json();
  const found = await Promise.all(columns.map((one, index) => replied(one, "AB"[index], question,
    () => ask(`/web/comparisons/${encodeURIComponent(id)}/${"ab"[index]}`, {}, signal))));
  if (found.some(({ ended }) => ended === null)) return false;
  const same = found[0].ended.text.trim() === found[1].ended.text.trim();
  comparison = { id, turns, messages: body.messages, found, same };
  enableVotes();
  enable();
  $("vote").focus();
  say(same ? "The replies are the same. Vote: t (tie) or n (both bad)."
    : "Both replies are complete. Vote: a, b, t (tie) or n (both bad).");
  return true;
}

async function send() {
  const question = $("message").value;
  if ($("send").disabled || !question.trim()) return;
  if (!$("settings").reportValidity()) return;
  running = new AbortController();
  const own = running;
  $("message").value = "";
  enable();
  say("Replies are on their way.");
  let complete = false;
  try {
    complete = await (blind() ? compare(question) : sideBySide(question));
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
  if (running === own) running = null;
  if (!complete && !own.signal.aborted && !$("message").value) $("message").value = question;
  enable();
}

async function cast(vote) {
  if (comparison === null || (comparison.same && ["a", "b"].includes(vote))) return;
  const { id, turns, messages, found } = comparison;
  for (const button of $("vote").querySelectorAll("button")) button.disabled = true;
  try {
    const shown = await (await ask(`/web/comparisons/${encodeURIComponent(id)}/vote`, { vote })).json();
    comparison = null;
    const names = models.map(({ name }) => name);
    found.forEach(({ reply, ended }, index) => {
      const name = shown.models["ab"[index]];
      columns[index].heading.textContent = `${"AB"[index]}: ${name}`;
      reply.offerScores(names, name, messages, ended.text);
    });
    const kept = { a: 0, b: 1, tie: 0 }[vote];
    const history = kept === undefined ? turns.slice(0, -1)
      : [...turns, { role: "assistant", content: found[kept].ended.text }];
    for (const one of columns) one.turns = history;
    const next = kept === undefined ? "The question is taken back." : `The conversation continues with ${"AB"[kept]}.`;
    enable();
    say(`Stored: ${SAID[vote]}. A was ${shown.models.a}, B was ${shown.models.b}. ${next}`);
    $("message").focus();
  } catch (error) {
    say(error.message, true);
  }
  enableVotes();
  enable();
}

function enableVotes() {
  for (const button of $("vote").querySelectorAll("button")) {
    button.disabled = Boolean(comparison?.same) && ["a", "b"].includes(button.value);
  }
}

async function start() {
  const about = await (await ask("/web/settings")).json();
  models = about.models;
  models.forEach(({ name, context }, index) => {
    const box = element("input", { type: "checkbox", id: `model-${index}`, checked: true });
    box.addEventListener("change", anew);
    $("models").append(element("label", { class: "choice", title: `context ${context} tokens` }, box, name));
  });
  $("temperature").value = about.defaults.temperature;
  $("seed").value = about.defaults.seed ?? "";
  $("most").value = about.defaults.max_tokens;
  if (models.length < 2) $("blind").disabled = true;
  anew();
  $("message").focus();
}

for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", anew);
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("write").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", () => running?.abort());
$("anew").addEventListener("click", () => { anew(); $("message").focus(); });
$("vote").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) cast(button.value);
});
$("vote").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const vote = KEYS[event.key.toLowerCase()];
  if (vote) { event.preventDefault(); cast(vote); }
});
start().catch((error) => say(error.message, true));
