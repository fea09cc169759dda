// A turn of a conversation on the page, its stream, and the log-probabilities of its tokens.

import { ask, element, events, Refused } from "./shared.js";

const LIMITS = [-0.7, -1.6, -3, -5]; // log-probabilities: 50%, 20%, 5%, 0.7%
const LEAST = 5; // tokens that are listed

export function pastTurn(text, who = "You", by = "user") {
  return element("div", { class: `turn ${by}` }, element("div", { class: "who" }, who),
    element("p", { class: "text" }, text));
}

export class Reply {
  constructor(label) {
    this.label = label;
    this.text = element("p", { class: "text" });
    this.foot = element("div", { class: "foot" });
    this.heat = element("div", { class: "heat", "aria-live": "polite" });
    this.box = element("div", { class: "turn busy", "aria-busy": "true" },
      element("div", { class: "who" }, label), this.text, this.foot, this.heat);
  }

  // Returns {text, reason, tokens, seed}; throws Refused, or AbortError if the user stops it.
  async read(response) {
    let text = "";
    try {
      for await (const event of events(response)) {
        if (event.text !== undefined) {
          text += event.text;
          const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 40;
          this.text.append(event.text);
          if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
        }
        if (event.error !== undefined) throw new Refused(event.error);
        if (event.ended !== undefined) {
          const { reason, tokens, seed } = event.ended;
          const cut = reason === "length" ? ", cut at the limit" : "";
          this.foot.append(element("span", {}, `${tokens} tokens, seed ${seed}${cut}`));
          if (!text) this.text.append(element("span", { class: "soft" }, "(an empty reply)"));
          return { text, ...event.ended };
        }
      }
      throw new Refused("the stream ended early");
    } finally {
      this.ended();
    }
  }

  ended() {
    this.box.classList.remove("busy");
    this.box.removeAttribute("aria-busy");
  }

  failed(error) {
    this.ended();
    const said = error.name === "AbortError" ? "stopped" : error.message;
    this.foot.append(element("span", { class: "error", role: "alert" }, said));
  }

  // Offers the log-probabilities of the reply under a model, by default the one that gave it.
  offerScores(models, own, messages, text) {
    if (!text) return;
    const choice = element("select", { "aria-label": "Model that scores this reply" });
    for (const model of models) choice.append(element("option", { value: model, selected: model === own }, model));
    const button = element("button", { class: "small", type: "button" }, "Log-probs");
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const response = await ask("/web/score", { model: choice.value, messages, reply: text });
        this.showScores(await response.json());
      } catch (error) {
        this.heat.replaceChildren(element("p", { class: "error" }, error.message));
      }
      button.disabled = false;
      button.focus();
    });
    this.foot.append(button, ...(models.length > 1 ? [element("span", {}, "under"), choice] : []));
  }

  showScores({ model, tokens, count, total }) {
    const marked = tokens.map(({ text, logprob }) => element("span",
      { class: `h${LIMITS.filter((limit) => logprob < limit).length}`, title: logprob.toFixed(2) }, text));
    this.text.replaceChildren(...marked);
    const mean = count ? total / count : 0;
    const least = [...tokens].sort((one, other) => one.logprob - other.logprob).slice(0, LEAST);
    const key = [["h0", "over 50%"], ["h1", "20–50%"], ["h2", "5–20%"], ["h3", "0.7–5%"], ["h4", "below 0.7%"]];
    this.heat.replaceChildren(
      element("p", { class: "soft" }, `Under ${model}: ${count} tokens, mean log-prob ${mean.toFixed(2)}, ` +
        `perplexity ${Math.exp(-mean).toPrecision(3)}, sum ${total.toFixed(1)}`),
      element("p", { class: "key soft" }, "Probability: ",
        ...key.map(([name, said]) => element("span", { class: name }, said))),
      element("p", { class: "soft" }, "Least likely: " +
        least.map(({ text, logprob }) => `${JSON.stringify(text)} ${logprob.toFixed(2)}`).join(", ")),
    );
  }
}
