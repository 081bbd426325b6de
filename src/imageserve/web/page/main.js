// The page: where pictures come from, which model and key they are sent with, and what is said of them.

import { asked, Cluster } from "./cluster.js";
import { OPEN_UP_TO, Picture, Sender } from "./pictures.js";
import { bytes, counted, curl, listed, percent, readable } from "./words.js";

const KEY = "imageserve-api-key";
const NAMES = { jpeg: "JPEG", png: "PNG", webp: "WebP", gif: "GIF", bmp: "BMP" };

const $ = selector => document.querySelector(selector);
const { formats, maxImageBytes, needsKey } = document.body.dataset;

// -- what is asked of the server ------------------------------------------------------------------

let models = {};
let keyText = "";
try {
  keyText = sessionStorage.getItem(KEY) ?? "";
} catch { /* A browser may forbid it: then the key is kept until the page is left. */ }

const chosen = () => $("#models").value;

function question() {
  const address = new URL("predict", document.baseURI);
  const [first] = Object.keys(models);
  if (chosen() && chosen() !== first) address.searchParams.set("model", chosen());
  const isMultiLabel = models[chosen()]?.multi_label === true;
  return { address: address.href, model: chosen(), isMultiLabel, keyText, key: asksForKey() };
}

function asksForKey() {
  return !$("#key").hidden;
}

async function findModels() {
  try {
    ({ models } = await asked("models"));
  } catch {
    return; // Asked again when the server answers.
  }
  const names = Object.keys(models);
  const before = chosen();
  if (names.join() !== Array.from($("#models").options, each => each.value).join()) {
    $("#models").replaceChildren(...names.map(name => new Option(name)));
    if (before in models) $("#models").value = before;
  }
  $("#model").hidden = names.length < 2;
  aboutModel();
}

function aboutModel() {
  const terminal = $("#terminal code");
  terminal.textContent = curl(question().address, "picture.jpg", { key: asksForKey() });
  $("#stand-in").hidden = models[chosen()]?.stand_in !== true;
  cluster.show();
}

$("#models").addEventListener("change", aboutModel);

// -- pictures and their answers --------------------------------------------------------------------

let pictures = [];
let told = true;

const sender = new Sender({ ask: question, most: Number(maxImageBytes), changed });

function take(files) {
  const found = [...files];
  if (!found.length) return;
  $("#complaint").hidden = true;
  const many = pictures.length + found.length > OPEN_UP_TO;
  const added = found.map(file => new Picture(file, many));
  pictures = [...added, ...pictures];
  $("#pictures").prepend(...added.map(each => each.card));
  if (many && !$("#pictures").classList.contains("many")) pictures.forEach(each => (each.find("details").open = false));
  $("#pictures").classList.toggle("many", many);
  told = false;
  say(found.length === 1 ? `Sending ${found[0].name || "the picture"}.` : `Sending ${found.length} pictures.`);
  for (const each of added) {
    each.find(".retry button").addEventListener("click", () => sendAgain([each]));
    sender.add(each);
  }
  summarise();
  added[0].card.scrollIntoView({ block: "nearest" });
}

function sendAgain(some) {
  told = false;
  for (const each of some) {
    each.reset();
    sender.add(each);
  }
  summarise();
}

function changed(picture) {
  if (["unauthorized", "forbidden"].includes(picture.code) && picture.state === "failed") askForKey(picture.code);
  summarise();
}

const inState = state => pictures.filter(each => each.state === state);

function summarise() {
  const [done, failed] = [inState("done"), inState("failed")];
  const left = pictures.length - done.length - failed.length;
  $("#answers").hidden = !pictures.length;
  $("#terminal").hidden = pictures.length > 0;
  document.body.classList.toggle("has-pictures", pictures.length > 0);
  const parts = [`${done.length} of ${counted(pictures.length, "picture")} answered`];
  if (failed.length) parts.push(`${failed.length} failed`);
  $("#answers-title").textContent = parts.join(", ");
  const one = failed.length === 1;
  $("#again").hidden = left > 0;
  $("#again").textContent = failed.length ? `Send ${one ? "the failed one" : `the ${failed.length} failed`} again` : "Send again";
  if (left || told || !pictures.length) return;
  told = true;
  say(pictures.length === 1 ? inWords(pictures[0]) : `${parts.join(", ")}.`);
}

function inWords({ name, state, best, error }) {
  if (state === "failed") return `${name}: ${error}`;
  return best ? `${name}: ${readable(best.label)}, ${percent(best.probability)}.` : `${name}: no label.`;
}

/** Tells it to screen readers. */
function say(text) {
  $("#news").textContent = text;
}

$("#again").addEventListener("click", () => {
  const failed = inState("failed");
  sendAgain(failed.length ? failed : pictures);
});

$("#clear").addEventListener("click", () => {
  pictures.forEach(each => sender.drop(each));
  pictures = [];
  $("#pictures").replaceChildren();
  summarise();
  say("Cleared.");
  $("#choose").focus();
});

// -- where pictures come from -----------------------------------------------------------------------

for (const [button, input] of [["#choose", "#files"], ["#photograph", "#camera"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", event => {
    take(event.target.files);
    event.target.value = ""; // The same file may be chosen again.
  });
}

document.addEventListener("paste", event => {
  const files = event.clipboardData?.files ?? [];
  if (event.target.closest?.("#key") || (!files.length && !event.clipboardData?.types.length)) return;
  event.preventDefault();
  if (files.length) take(files);
  else complain("What was pasted is no picture. Copy the picture itself, not its address.");
});

let inside = 0;

document.addEventListener("dragenter", event => event.dataTransfer.types.includes("Files") && dragged(1));
document.addEventListener("dragleave", event => event.dataTransfer.types.includes("Files") && dragged(-1));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", async event => {
  event.preventDefault();
  dragged(-inside);
  const entries = [...event.dataTransfer.items].map(each => each.webkitGetAsEntry?.()).filter(Boolean);
  const dropped = [...event.dataTransfer.files];
  const files = entries.some(each => each.isDirectory) ? await filesIn(entries) : dropped;
  if (files.length) take(files);
  else complain("What was dropped is no file. Save the picture first, then drop its file.");
});

function dragged(step) {
  inside = Math.max(0, inside + step);
  $("#here").hidden = !inside;
}

/** All files in folders, and in folders inside them. */
async function filesIn(entries) {
  const found = await Promise.all(entries.map(async entry => {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    return filesIn(await listing(entry.createReader()));
  }));
  return found.flat();
}

async function listing(reader) {
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}

function complain(text) {
  $("#complaint").textContent = text;
  $("#complaint").hidden = false;
  say(text);
}

// -- the key ----------------------------------------------------------------------------------------

function askForKey(code) {
  const isFirst = $("#key").hidden;
  $("#key").hidden = false;
  $("#key-note").textContent = code === "forbidden"
    ? "The server refuses this key; the picture says why."
    : "This server answers only requests that carry a key. This tab keeps it until you close it.";
  if (isFirst || document.activeElement === document.body) $("#key-text").focus();
}

$("#key").addEventListener("submit", event => {
  event.preventDefault();
  keyText = $("#key-text").value.trim();
  try {
    sessionStorage.setItem(KEY, keyText);
  } catch { /* As above. */ }
  say("The key is used from now on.");
  sendAgain(inState("failed").filter(each => ["unauthorized", "forbidden"].includes(each.code)));
});

// -- copying ----------------------------------------------------------------------------------------

document.addEventListener("click", async event => {
  const command = event.target.closest(".command");
  if (!command || event.target.tagName !== "BUTTON") return;
  const code = command.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // Browsers have no clipboard for pages without TLS.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  event.target.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (event.target.textContent = "Copy"), 2000);
});

// -- the start --------------------------------------------------------------------------------------

const cluster = new Cluster({
  chosen,
  reached(isThere) {
    const text = "The server does not answer. This page asks again every two seconds.";
    $("#offline").textContent = text;
    $("#offline").hidden = isThere;
    say(isThere ? "The server answers again." : text);
    if (isThere) findModels();
  },
});

const known = Object.keys(NAMES).filter(each => formats.split(" ").includes(each)).map(each => NAMES[each]);
$("#limits").textContent = `${listed(known)}, up to ${bytes(Number(maxImageBytes))} each`;
$("#files").accept = formats.split(" ").map(each => `image/${each}`).join();
$("#key").hidden = needsKey !== "yes";
$("#key-text").value = keyText;
findModels();
setInterval(findModels, 30_000);
