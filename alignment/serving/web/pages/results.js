// The results of the votes: win rates, ratings, position bias, votes over time.

import { $, ask, drawn, element, percent } from "./shared.js";

const VOTES = { a: "first reply (A)", b: "second reply (B)", tie: "tie", both_bad: "both bad" };
const SAID = { a: "better", b: "worse", tied: "tied", unknown: "no verdict" };

const interval = (low, high, shown) => (low === null ? "–" : low === high ? "fixed" : `${shown(low)} to ${shown(high)}`);
const counted = (number, thing, things = `${thing}s`) => `${number} ${number === 1 ? thing : things}`;
const room = (most) => Math.min(most, $("results").clientWidth);

function table(caption, heads, rows) {
  const head = element("tr", {}, ...heads.map(([said, number]) =>
    element("th", { scope: "col", class: number ? "number" : null }, said)));
  const lines = rows.map((cells) => element("tr", {}, ...cells.map((cell, index) => index === 0
    ? element("th", { scope: "row" }, cell)
    : element("td", { class: heads[index][1] ? "number" : null }, cell))));
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": caption };
  return element("div", {}, element("p", { class: "soft" }, caption), element("div", region,
    element("table", { "aria-label": caption }, element("thead", {}, head), element("tbody", {}, ...lines))));
}

function pairs(found) {
  const rows = found.map((one) => [`${one.a} over ${one.b}`, percent(one.win_rate),
    interval(one.ci_low, one.ci_high, percent), SAID[one.verdict], `${one.win}`, `${one.tie}`, `${one.loss}`,
    `${one.clusters}`]);
  return table("Win rate; ties and “both bad” are half a win. 95% intervals, clustered by prompt.",
    [["Pair"], ["Win rate", 1], ["Interval"], ["Verdict"], ["Wins", 1], ["Ties", 1], ["Losses", 1], ["Prompts", 1]], rows);
}

function ratings(found) {
  const round = (value) => value.toFixed(0);
  const rows = found.map((one) => [one.name, round(one.rating), interval(one.ci_low, one.ci_high, round), `${one.games}`]);
  return [ranges(found), table("Bradley–Terry on the Elo scale; the first name in the alphabet is fixed at 1,000. 95% bootstrap intervals.",
    [["Model"], ["Rating", 1], ["Interval"], ["Votes", 1]], rows)];
}

function ranges(found) {
  const [row, width] = [26, room(560)];
  const left = Math.min(150, width / 3);
  const ends = found.flatMap((one) => [one.rating, one.ci_low ?? one.rating, one.ci_high ?? one.rating]);
  const [low, high] = [Math.min(...ends) - 20, Math.max(...ends) + 20];
  const x = (value) => left + ((value - low) / (high - low)) * (width - left - 20);
  const height = row * found.length + 24;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "Ratings with intervals; the table below has the numbers" });
  found.forEach((one, index) => {
    const y = row * index + row / 2;
    const most = Math.floor(left / 7.5);
    const name = one.name.length > most ? `${one.name.slice(0, most - 1)}…` : one.name;
    svg.append(drawn("text", { x: 0, y: y + 4 }, name), drawn("line", { class: "axis", x1: left, x2: width - 20, y1: y, y2: y }));
    if (one.ci_low !== null) svg.append(drawn("line", { class: "range", x1: x(one.ci_low), x2: x(one.ci_high), y1: y, y2: y }));
    svg.append(drawn("circle", { class: "dot", cx: x(one.rating), cy: y, r: 4 }));
  });
  for (const value of [low + 20, high - 20]) {
    svg.append(drawn("text", { x: x(value), y: height - 4, "text-anchor": "middle" }, value.toFixed(0)));
  }
  return svg;
}

function position({ first, ci_low, ci_high, n }) {
  if (!n) return element("p", {}, "No vote names a winner yet.");
  const found = ci_low === null ? "" : ci_low > 0.5 || ci_high < 0.5
    ? " The interval excludes 50%: votes depend on the position." : " The interval contains 50%: no bias is shown.";
  return element("p", {}, `The reply shown first (A) won ${percent(first)} of ${n} votes that name a winner` +
    `${ci_low === null ? "" : ` [${percent(ci_low)}, ${percent(ci_high)}]`}.${found}`);
}

function course({ unit, buckets }) {
  const [height, width] = [150, room(700)];
  const sums = buckets.map((one) => Object.keys(VOTES).reduce((sum, name) => sum + one[name], 0));
  const most = Math.max(...sums);
  const first = Date.parse(buckets[0].start);
  const step = { day: 86400e3, hour: 3600e3, minute: 60e3 }[unit];
  const slots = Math.round((Date.parse(buckets.at(-1).start) - first) / step) + 1;
  const wide = Math.min(48, (width - 40) / slots);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height + 40}`, width, height: height + 40, role: "img",
    "aria-label": `Votes per ${unit}; the table below has the numbers` });
  svg.append(drawn("line", { class: "axis", x1: 30, x2: width, y1: height + 10, y2: height + 10 }),
    drawn("text", { x: 24, y: 18, "text-anchor": "end" }, `${most}`), drawn("text", { x: 24, y: height + 14, "text-anchor": "end" }, "0"));
  const shown = (date) => unit === "day" ? date.toLocaleDateString() : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  buckets.forEach((one) => {
    const x = 34 + wide * Math.round((Date.parse(one.start) - first) / step);
    let y = height + 10;
    for (const name of Object.keys(VOTES)) {
      const tall = (height * one[name]) / most;
      y -= tall;
      if (tall) svg.append(drawn("rect", { class: name, x, y, width: Math.max(1, wide - 2), height: tall }));
    }
  });
  svg.append(drawn("text", { x: 34, y: height + 28 }, shown(new Date(first))));
  if (slots > 3) svg.append(drawn("text", { x: 34 + wide * slots, y: height + 28, "text-anchor": "end" }, shown(new Date(buckets.at(-1).start))));
  const key = element("p", { class: "soft" }, ...Object.entries(VOTES).flatMap(([name, said]) =>
    [element("span", { class: `swatch ${name}` }), said]));
  const rows = buckets.map((one, index) => [shown(new Date(one.start)), ...Object.keys(VOTES).map((name) => `${one[name]}`), `${sums[index]}`]);
  return [svg, key, table(`Votes per ${unit}`, [["From"], ...Object.values(VOTES).map((said) => [said, 1]), ["All", 1]], rows)];
}

async function start() {
  const about = await (await ask("/web/settings")).json();
  const found = await (await ask("/web/results")).json();
  if (!found.n) {
    $("status").textContent = `${about.votes} has no votes yet: choose “Blind vote” on the chat page.`;
    return;
  }
  const { a, b, tie, both_bad } = found.counts;
  $("status").textContent = `${counted(found.n, "vote")} on ${counted(found.prompts, "prompt")} in ` +
    `${about.votes}: ${a + b} with a winner, ${counted(tie, "tie")}, ${both_bad} both bad.`;
  const lines = found.unreadable.length
    ? [element("p", { class: "error" }, `Not votes, and left out: line ${found.unreadable.join(", ")}.`)] : [];
  const weak = found.ratings.some((one) => !one.bounded)
    ? [element("p", { class: "soft" }, "A model won, or lost, every vote against others: its distance is not bounded by the votes yet.")] : [];
  $("results").replaceChildren(...lines,
    element("h2", {}, "Win rate"), pairs(found.pairs),
    element("h2", {}, "Ratings"), ...(found.ratings.length ? ratings(found.ratings) : [element("p", {}, found.ratings_note)]), ...weak,
    element("h2", {}, "Position"), position(found.position),
    element("h2", {}, "Votes over time"), ...course(found.course));
}

start().catch((error) => {
  $("status").textContent = error.message;
  $("status").className = "error";
});
