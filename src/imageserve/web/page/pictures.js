// Pictures on their way: each is sent by itself, and its card shows what became of it.

import { bytes, counted, curl, milliseconds, parts, percent, problem, readable, timings } from "./words.js";

/** Browsers open six connections to a server; this leaves two for its status. */
const AT_ONCE = 4;
/** A picture that the server has no room for is sent again for so long, as often as the server says. */
const PATIENCE_MS = 60_000;
/** With more cards than this, times and commands are folded. */
export const OPEN_UP_TO = 4;

const template = document.querySelector("#card");

/** One picture and its card. */
export class Picture {
  state = "waiting"; // waiting, sending, done, failed, dropped

  constructor(file, many) {
    this.file = file;
    this.name = file.name || "picture.png";
    this.card = template.content.firstElementChild.cloneNode(true);
    this.find("h3").textContent = this.name;
    this.find("details").open = !many;
    this.#preview();
    this.say("Waiting.");
  }

  find(selector) {
    return this.card.querySelector(selector);
  }

  say(text) {
    this.find(".state").textContent = text;
  }

  #preview() {
    const img = this.find("img");
    img.onload = () => URL.revokeObjectURL(img.src);
    img.onerror = () => {
      URL.revokeObjectURL(img.src);
      img.hidden = true;
      this.find(".preview p").hidden = false;
    };
    img.src = URL.createObjectURL(this.file);
  }

  /** Back to the beginning, for another try. */
  reset() {
    this.state = "waiting";
    this.card.classList.remove("failed", "done");
    this.find(".labels").replaceChildren();
    for (const each of [".note", ".retry", "details"]) this.find(each).hidden = true;
    this.say("Waiting.");
  }

  fail(text, code = "", id = "") {
    this.state = "failed";
    this.code = code;
    this.error = text;
    this.card.classList.add("failed");
    this.say(text);
    const about = [code && `Code ${code}`, id && `request ${id}`].filter(Boolean).join(", ");
    this.find(".note").textContent = about;
    this.find(".note").hidden = !about;
    this.find(".retry").hidden = false;
  }

  /** Shows an answer: labels, who gave them, and where the time went. */
  show(answer, question) {
    this.state = "done";
    this.best = answer.predictions[0];
    this.card.classList.add("done");
    this.say(bytes(this.file.size));
    this.find(".labels").replaceChildren(...answer.predictions.map(labelRow));
    const note = this.find(".note");
    note.hidden = !question.isMultiLabel;
    note.textContent = "Several labels may hold at once: these do not add up to 100 %.";
    this.#explain(answer, question);
  }

  #explain(answer, question) {
    const version = answer.version && `, version ${answer.version}`;
    const who = question.model ? ` by ${question.model}${version}` : version;
    this.find("summary").textContent = `Answered in ${milliseconds(answer.ms)}${who}`;
    const found = parts(answer.times, answer.ms);
    this.find(".times").replaceChildren(...found.map(([, ms]) => bar("", ms / answer.ms)));
    this.find(".parts").replaceChildren(...found.map(([name, ms]) => fact(name, milliseconds(ms))));
    this.find(".command code").textContent = curl(question.address, this.name, { key: question.key });
    this.find(".id").textContent = `Request ${answer.id}`;
    this.find("details").hidden = false;
  }
}

function labelRow({ label, probability }) {
  const row = document.createElement("li");
  const name = made("span", "label", readable(label));
  if (name.textContent !== label) name.title = label;
  row.append(name, " ", made("span", "percent", percent(probability)), bar("bar", probability));
  return row;
}

/** A bar that fills a share of its row; what it shows stands in words beside it. */
function bar(kind, share) {
  const outer = made("span", kind);
  outer.setAttribute("aria-hidden", "true");
  outer.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));
  return outer;
}

function fact(name, value) {
  const group = document.createElement("div");
  group.append(made("dt", "", name), made("dd", "", value));
  return group;
}

function made(tag, kind, text = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

/** Sends pictures, some at a time. */
export class Sender {
  #waiting = [];
  #busy = 0;

  /**
   * `ask` returns what is asked of the server now: address, key, model; `changed` is told of each
   * picture that is done or has failed.
   */
  constructor({ ask, most, changed }) {
    Object.assign(this, { ask, most, changed });
  }

  add(picture) {
    const { size } = picture.file;
    if (size > this.most) {
      const count = bytes(size) === bytes(this.most) ? each => counted(each, "byte") : bytes;
      picture.fail(`It has ${count(size)}; this server takes pictures of up to ${count(this.most)}.`, "image_too_large");
      this.changed(picture);
      return;
    }
    this.#waiting.push(picture);
    this.#next();
  }

  drop(picture) {
    picture.state = "dropped";
    picture.request?.abort();
    URL.revokeObjectURL(picture.find("img").src);
  }

  #next() {
    while (this.#busy < AT_ONCE && this.#waiting.length) {
      const picture = this.#waiting.shift();
      if (picture.state === "dropped") continue;
      this.#busy += 1;
      this.#classify(picture).finally(() => {
        this.#busy -= 1;
        this.#next();
      });
    }
  }

  async #classify(picture) {
    const until = performance.now() + PATIENCE_MS;
    picture.state = "sending";
    while (picture.state === "sending") {
      const question = this.ask();
      picture.say("Sending …");
      const again = await this.#try(picture, question, until);
      if (again === undefined) break;
      await new Promise(wake => setTimeout(wake, 1000 * again));
    }
    if (picture.state !== "dropped") this.changed(picture);
  }

  /** Sends it once; returns the seconds after which to try again, if at all. */
  async #try(picture, question, until) {
    const began = performance.now();
    let reply;
    try {
      reply = await post(picture, question);
    } catch (error) {
      if (picture.state !== "dropped") picture.fail(await whyNotSent(picture.file, error));
      return undefined;
    }
    const ms = performance.now() - began;
    const header = name => reply.getResponseHeader(name) ?? "";
    const predictions = reply.status === 200 && predictionsIn(reply.responseText);
    if (predictions) {
      const [times, version, id] = [timings(header("Server-Timing")), header("X-Model-Version"), header("X-Request-Id")];
      picture.show({ predictions, ms, times, version, id }, question);
      return undefined;
    }
    const { code, text } = problem(reply.status, reply.responseText);
    const pause = Number(header("Retry-After"));
    if ([429, 503].includes(reply.status) && pause > 0 && performance.now() + 1000 * pause < until) {
      picture.say(`${text} The picture is sent again in ${pause} s.`);
      return pause;
    }
    picture.fail(text, code, header("X-Request-Id"));
    return undefined;
  }
}

/** Nothing where the body is not imageserve's: a proxy may ask for a password with status 200. */
function predictionsIn(body) {
  try {
    return JSON.parse(body).predictions;
  } catch {
    return undefined;
  }
}

/** An XMLHttpRequest, because fetch does not tell how much of a body is sent. */
function post(picture, question) {
  return new Promise((resolve, reject) => {
    const request = (picture.request = new XMLHttpRequest());
    request.open("POST", question.address);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (question.keyText) request.setRequestHeader("X-API-Key", question.keyText);
    request.upload.onprogress = ({ loaded, total }) => {
      picture.say(loaded < total ? `Sending, ${percent(loaded / total)} …` : "Sent. Waiting for the answer …");
    };
    request.onload = () => resolve(request);
    request.onerror = request.onabort = () => reject(new Error("no answer"));
    request.send(picture.file);
  });
}

async function whyNotSent(file, error) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return "This file cannot be read: it was moved or changed, or it is a folder.";
  }
  if (error.name === "SyntaxError" || error.name === "TypeError") return "The API key has signs that no key may have.";
  return "The server does not answer. Is it running, and is this device online?";
}
