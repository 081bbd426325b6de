// What the cluster does now: /status is read every two seconds while the page is seen.

import { counted, milliseconds, number, sentence } from "./words.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 8000;
/** Readings: two minutes of them. */
const KEPT = 61;
/** The rate in figures is that of the last so many readings. */
const LATEST = 4;

const $ = selector => document.querySelector(selector);

export class Cluster {
  #readings = []; // {at, models, redis}, oldest first
  #away = false;
  #timer = 0;

  /** `chosen` returns the name of the model to show; `reached` is told whether the server answers. */
  constructor({ chosen, reached }) {
    Object.assign(this, { chosen, reached });
    document.addEventListener("visibilitychange", () => document.hidden || this.watch());
    this.watch();
  }

  async watch() {
    clearTimeout(this.#timer);
    try {
      const status = await asked("status");
      this.#readings = [...this.#readings.slice(1 - KEPT), { at: performance.now(), ...status }];
      this.#tell(true);
    } catch {
      this.#tell(false);
    }
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.watch(), EVERY_MS);
  }

  #tell(isThere) {
    if (isThere) {
      this.show();
    } else {
      $("#cluster-state").textContent = "The server does not answer.";
      $("#cluster-numbers").hidden = true;
    }
    if (this.#away === isThere) this.reached(isThere);
    this.#away = !isThere;
  }

  show() {
    const last = this.#readings.at(-1);
    if (!last) return;
    const name = this.chosen() || Object.keys(last.models)[0];
    const model = last.models[name];
    $("#cluster-numbers").hidden = !model;
    if (!model) {
      $("#cluster-state").textContent = "Redis cannot be reached: pictures are not answered now.";
      return;
    }
    const live = model.workers.filter(each => each.state !== "stopping");
    const which = Object.keys(last.models).length > 1 ? `The queue of ${name}. ` : "";
    $("#cluster-state").textContent = which + (live.length ? "" : "No worker runs: pictures wait until one starts.");
    this.#showRate(name, model, live.length);
    $("#facts").replaceChildren(...facts(model, live));
    showWorkers(model.workers);
  }

  #showRate(name, model, workers) {
    const all = rates(this.#readings, name);
    const known = all.filter(each => each !== undefined);
    const now = mean(all.slice(-LATEST).filter(each => each !== undefined));
    const most = Math.max(0, ...known);
    $("#rate").textContent = rate(now);
    const able = model.capacity_per_s ? `${counted(workers, "worker")} could do ${rate(model.capacity_per_s)} a second` : "";
    const seen = most ? `at most ${rate(most)} in these two minutes` : "";
    $("#rates-note").textContent = sentence([able, seen].filter(Boolean).join("; "));
    $("#rates").setAttribute("aria-label", `Pictures a second over two minutes: now ${rate(now)}, at most ${rate(most)}`);
    draw($("#rates"), all, most);
  }
}

/** Reads JSON from the server. Throws where it does not answer, or not in time. */
export async function asked(address) {
  const reply = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  return reply.json();
}

/** Pictures a second between each two readings; undefined where nothing can be said. */
function rates(readings, name) {
  return readings.slice(1).map((later, index) => {
    const [before, after] = [readings[index], later].map(each => each.models[name]?.completed);
    const done = after - before; // NaN where one is missing; below 0 where Redis has lost its counters.
    return done >= 0 ? (1000 * done) / (later.at - readings[index].at) : undefined;
  });
}

function mean(values) {
  return values.length ? values.reduce((sum, each) => sum + each, 0) / values.length : 0;
}

function rate(value) {
  return number(value, value < 10 ? 1 : 0);
}

function facts(model, live) {
  const busy = live.filter(each => each.state === "busy").length;
  const behind = model.background ? `, ${number(model.background)} of them in the background` : "";
  const found = [
    ["Waiting", `${number(model.queued)}${behind}`],
    ["In work", number(model.in_flight)],
    ["Workers", `${number(live.length)}${busy ? `, ${number(busy)} busy` : ""}`],
  ];
  if (model.expected_wait_ms !== null) found.push(["A new one waits", `about ${milliseconds(model.expected_wait_ms)}`]);
  if (model.dead) found.push(["Given up", number(model.dead)]);
  return found.map(([name, value]) => {
    const row = document.createElement("div");
    row.append(made("dt", name), made("dd", value));
    return row;
  });
}

function showWorkers(workers) {
  const rows = workers.map(({ host, state, version, problem }) => {
    const row = made("li", [host, state, version && `version ${version}`].filter(Boolean).join(", "));
    if (problem) row.append(made("p", sentence(problem)));
    return row;
  });
  $("#workers ul").replaceChildren(...rows);
  $("#workers").hidden = !rows.length;
  if (workers.some(each => each.problem)) $("#workers").open = true;
}

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/** Draws a line that ends at the right, with gaps where nothing is known. */
function draw(svg, values, most) {
  const { width, height } = svg.viewBox.baseVal;
  const x = index => width - ((values.length - 1 - index) * width) / (KEPT - 2);
  const y = value => height - 1 - (value / (most || 1)) * (height - 3);
  const runs = [];
  values.forEach((value, index) => {
    if (value === undefined) return;
    if (index === 0 || values[index - 1] === undefined) runs.push([]);
    runs.at(-1).push(`${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  });
  const area = run => `M${run[0].split(",")[0]},${height}L${run.join("L")}L${run.at(-1).split(",")[0]},${height}Z`;
  svg.querySelector(".line").setAttribute("d", runs.map(run => `M${run.join("L")}`).join(""));
  svg.querySelector(".area").setAttribute("d", runs.map(area).join(""));
}
