// What all pages use. Texts of users and models become text nodes only, never HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}%`);

export class Refused extends Error {}

// A request to this server. Without a body it is a GET. A server with a key asks for it once per tab.
export async function ask(path, body, signal) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem("key");
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal,
        body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("the server does not answer");
    }
    if (response.ok) return response;
    if (response.status === 401) { await keyEntered(); continue; }
    let said = `status ${response.status}`;
    try { said = (await response.json()).error.message; } catch { /* no JSON: the status says it */ }
    throw new Refused(said);
  }
}

let waiting = null;
function keyEntered() {
  waiting ??= new Promise((resolve) => {
    const input = element("input", { id: "key", type: "password", autocomplete: "current-password" });
    const form = element("form", { class: "settings" }, element("label", { for: "key" }, "This server needs its key"),
      input, element("button", { class: "main" }, "Use key"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem("key", input.value.trim());
      form.remove();
      waiting = null;
      resolve();
    });
    document.querySelector("main").prepend(form);
    input.focus();
  });
  return waiting;
}

// Yields the events of a streamed response.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    const parts = pending.split("\n\n");
    pending = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}
