// How labels, numbers, errors and commands are written. Touches neither the page nor the network.

/** A label that reads well: "n02124075_Egyptian_cat" becomes "Egyptian cat". */
export function readable(label) {
  return label.replace(/^n\d{8}[\s_:,-]+/, "").replace(/[\s_]+/g, " ").trim() || label;
}

export function percent(probability) {
  if (probability > 0.9995 && probability < 1) return "> 99.9 %";
  if (probability > 0 && probability < 0.0005) return "< 0.1 %";
  return `${number(100 * probability, 1)} %`;
}

/** At most so many decimals. */
export function number(value, decimals = 0) {
  return value.toLocaleString("en", { maximumFractionDigits: decimals });
}

export function milliseconds(ms) {
  if (ms >= 1000) return `${number(ms / 1000, 1)} s`;
  return `${number(ms, ms < 10 ? 1 : 0)} ms`;
}

export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  if (count < 2 ** 20) return `${number(count / 2 ** 10, count < 10240 ? 1 : 0)} KB`;
  return `${number(count / 2 ** 20, 1)} MB`;
}

export function counted(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** "a, b or c" */
export function listed(words, last = "or") {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}

/** What the server says of an error begins with a small letter, and has no full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  return trimmed && trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}

/** Reads the header Server-Timing: name -> milliseconds. */
export function timings(header) {
  const found = (header ?? "").matchAll(/([\w-]+)\s*;[^,]*?dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(found, ([, name, ms]) => [name, Number(ms)]));
}

/** Where the time of an answer went: [name, milliseconds], in order. */
export function parts(times, wholeMs) {
  const known = ["decode", "queue", "model"].map(name => [name, times[name] ?? 0]);
  const rest = wholeMs - known.reduce((sum, [, ms]) => sum + ms, 0);
  return [...known, ["network and the rest", Math.max(0, rest)]];
}

/** What the server says to programs, said to people. */
const FOR_PEOPLE = { unauthorized: "An API key is needed: type it in above." };

/** What the body of an error says, or a sentence for a body that is not imageserve's. */
export function problem(status, body) {
  try {
    const { code, message } = JSON.parse(body).error;
    return { code, text: FOR_PEOPLE[code] ?? sentence(message) };
  } catch {
    const text = `Something in front of imageserve, a proxy perhaps, gave this answer, with status ${status}.`;
    return { code: "", text: status === 413 ? `${text} It takes smaller pictures only.` : text };
  }
}

/** The command that asks the same. */
export function curl(address, name, { key = false } = {}) {
  // curl gives a meaning to these signs, unless the name stands in quotes.
  const file = /[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
  const words = ["-F", quoted(`image=@${file}`), quoted(address)];
  return ["curl", ...(key ? ['-H "X-API-Key: $IMAGESERVE_API_KEY"'] : []), ...words].join(" ");
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
