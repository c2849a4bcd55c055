// Verifies a receipt in the browser: signature, certificate and place in the log, by the root's key.
// It computes what `admission/evidence.py` computes, and believes the exchange nothing but that key.

const FIELDS = ["issuer", "private", "public", "salt", "signature", "version"];
const HEX = /^([0-9a-f]{2})*$/;
const encoder = new TextEncoder();
const result = document.getElementById("result");

class Refusal extends Error {}

const bytes = (text) => encoder.encode(text);
const joined = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));
const digest = async (data) => new Uint8Array(await crypto.subtle.digest("SHA-256", data));
const hex = (data) => [...data].map((one) => one.toString(16).padStart(2, "0")).join("");
const same = (one, other) => hex(one) === hex(other);

function unhex(text) {
  if (typeof text !== "string" || !HEX.test(text)) throw new Refusal("A hash is not hexadecimal.");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

function unbase64(text) {
  try {
    return Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  } catch {
    throw new Refusal("A key or a signature is not base64.");
  }
}

// RFC 8785 of objects of strings.
function canonical(value) {
  if (typeof value === "string") return JSON.stringify(value);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Refusal("A receipt consists of objects and texts; this has something else in it.");
  }
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
}

// Microseconds since 1970 of an instant with six decimals, as text.
function micros(text) {
  const found = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z$/.exec(text);
  if (!found) throw new Refusal("An instant is not written as it should be.");
  return String(BigInt(Date.parse(`${found[1]}Z`)) * 1000n + BigInt(found[2]));
}

async function isSigned(publicKey, signature, message) {
  const key = await crypto.subtle.importKey("raw", publicKey, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
}

const keyId = async (publicKey) => hex(await digest(publicKey)).slice(0, 32);

function parse(text) {
  let receipt;
  try {
    receipt = JSON.parse(text);
  } catch {
    throw new Refusal("This is not JSON.");
  }
  canonical(receipt);
  if (typeof receipt !== "object" || Object.keys(receipt).sort().join() !== FIELDS.join()) {
    throw new Refusal("This is not a receipt: its fields are others.");
  }
  if (receipt.version !== "1") throw new Refusal("This version of a receipt is not known.");
  if (typeof receipt.public !== "object" || typeof receipt.private !== "object") {
    throw new Refusal("This is not a receipt: a part is missing.");
  }
  return receipt;
}

async function leafHash(receipt) {
  const salted = joined(
    bytes("baseload receipt private 1\0"), unhex(receipt.salt), bytes(canonical(receipt.private)),
  );
  const leaf = canonical({
    issuer: receipt.issuer,
    private: hex(await digest(salted)),
    public: receipt.public,
    version: receipt.version,
  });
  return digest(joined([0], bytes(leaf)));
}

async function rootOf(leaf, index, size, path) {
  let [number, last, node] = [BigInt(index), BigInt(size) - 1n, leaf];
  if (number > last) throw new Refusal("The proof names a place outside of the log.");
  for (const each of path.map(unhex)) {
    if (last === 0n) throw new Refusal("The proof is longer than the log is high.");
    if (number % 2n || number === last) {
      node = await digest(joined([1], each, node));
      while (number % 2n === 0n && number) [number, last] = [number >> 1n, last >> 1n];
    } else {
      node = await digest(joined([1], node, each));
    }
    [number, last] = [number >> 1n, last >> 1n];
  }
  if (last !== 0n) throw new Refusal("The proof is shorter than the log is high.");
  return node;
}

async function checkHead(head, rootKey) {
  const message = canonical({ at: micros(head.at), root: head.root, size: String(head.size) });
  const signed = joined(bytes("baseload receipts head 1\0"), bytes(message));
  if (!(await isSigned(rootKey, unbase64(head.signature), signed))) {
    throw new Refusal("The head of the log is not signed with this root key.");
  }
}

async function checkIssuer(issuer, receipt, rootKey) {
  const key = unbase64(issuer.public_key);
  if (issuer.id !== receipt.issuer || (await keyId(key)) !== issuer.id) {
    throw new Refusal("The key is not that of the receipt's issuer.");
  }
  const message = canonical({
    gateway: issuer.gateway, key: hex(key), valid_from: micros(issuer.valid_from),
  });
  const signed = joined(bytes("baseload gateway key 1\0"), bytes(message));
  if (!(await isSigned(rootKey, unbase64(issuer.certificate), signed))) {
    throw new Refusal("The root key did not certify this gateway.");
  }
  const startsAt = BigInt(receipt.public.interval_starts_at);
  if (startsAt + 300000000n <= BigInt(micros(issuer.valid_from))) {
    throw new Refusal("The gateway's key was not valid yet.");
  }
  if (issuer.valid_until && startsAt >= BigInt(micros(issuer.valid_until))) {
    throw new Refusal("The gateway's key was no longer valid.");
  }
  return key;
}

async function get(path) {
  const answer = await fetch(`/api/v1/${path}`);
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Refusal("The exchange does not answer; try again.");
  return answer.json();
}

async function publishedKeys() {
  const found = [];
  let cursor = "";
  do {
    const page = await get(`keys?limit=1000${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    found.push(...page.results);
    cursor = page.next_cursor ?? "";
  } while (cursor);
  return found;
}

// The steps in their order; each throws when it fails.
async function verify(receipt, keptRootKey) {
  const steps = [];
  const leaf = await leafHash(receipt);
  const proof = await get(`receipts/proof?hash=${hex(leaf)}`);
  const isWhole = async (key) => {
    const signed = joined(bytes("baseload receipt 1\0"), leaf);
    if (!(await isSigned(key, unbase64(receipt.signature), signed))) {
      throw new Refusal("The signature is not the gateway's: the receipt was altered, or made up.");
    }
  };
  if (proof === null) {
    const keys = await publishedKeys();
    const issuer = keys.find((one) => one.id === receipt.issuer);
    if (!issuer) throw new Refusal("No key of the exchange issued this receipt.");
    await isWhole(unbase64(issuer.public_key));
    steps.push("Signed with a key that the exchange publishes.");
    return { leaf, steps, isLogged: false };
  }
  let rootKey = keptRootKey;
  if (!rootKey) {
    const keys = await publishedKeys();
    const root = keys.find((one) => one.id === proof.head.signing_key && one.purpose === "root");
    if (!root) throw new Refusal("The root key of the log is not published.");
    rootKey = unbase64(root.public_key);
  }
  await isWhole(await checkIssuer(proof.issuer, receipt, rootKey));
  const whose = keptRootKey ? "you kept" : "that the exchange publishes now";
  steps.push(`Signed by gateway ${proof.issuer.gateway}, which the root key ${whose} certifies.`);
  await checkHead(proof.head, rootKey);
  const root = await rootOf(leaf, proof.index, proof.head.size, proof.path);
  if (!same(root, unhex(proof.head.root))) throw new Refusal("The receipt is not in the log.");
  steps.push(`In the log: leaf ${proof.index} of ${proof.head.size}, head of ${proof.head.at.slice(0, 19).replace("T", " ")} UTC.`);
  return { leaf, steps, isLogged: true };
}

// What is shown

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const orDash = (text, unit = "") => (text ? `${text}${unit}` : "–");
const label = (text) => orDash((text ?? "").replaceAll("_", " ").toUpperCase());

function thousandths(text, unit) {
  return text ? `${(Number(text) / 1000).toLocaleString("en-US")} ${unit}` : "–";
}

function rows(receipt, targets) {
  const { public: open, private: own } = receipt;
  const target = targets?.[own.class_owed];
  return [
    ["Class", label(own.class_owed), label(open.class_served)],
    ["Outcome", own.class_owed ? "completed" : "–", orDash(open.outcome)],
    ["First token", target ? `${target.first_token_ms} ms` : "–", orDash(open.first_token_ms, " ms")],
    ["Per token", target ? `${target.per_token_ms} ms` : "–", thousandths(open.per_token_us, "ms")],
    ["Wait in queue", "–", orDash(open.queue_ms, " ms")],
    ["NTU", "–", thousandths(open.mntu, "")],
  ];
}

function table(receipt, targets) {
  const made = element("table");
  made.append(element("caption", "What was promised and what was delivered", { class: "visually-hidden" }));
  const head = element("tr");
  for (const [text, of] of [["", ""], ["Promised", "num"], ["Delivered", "num"]]) {
    head.append(element("th", text, { scope: "col", class: of }));
  }
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  for (const [name, promised, delivered] of rows(receipt, targets)) {
    const row = element("tr");
    row.append(element("th", name, { scope: "row" }));
    row.append(element("td", promised, { class: "num" }), element("td", delivered, { class: "num" }));
    body.append(row);
  }
  made.append(top, body);
  const scroll = element("div", "", { class: "scroll" });
  scroll.append(made);
  return scroll;
}

function isBroken({ public: open, private: own }) {
  if (!own.class_owed) return false;
  return open.class_served !== own.class_owed || ["shed", "refused", "failed"].includes(open.outcome);
}

function show(receipt, found, targets) {
  const body = element("div", "", { class: "panel-body stack" });
  const verdict = found.isLogged ? "Genuine, and in the log." : "Genuine. Not in the log yet.";
  body.append(element("p", verdict, { class: "strong", "data-verdict": "genuine" }));
  for (const step of found.steps) body.append(element("p", step));
  if (!found.isLogged) {
    body.append(element("p", "A receipt is taken in after its five-minute interval, or after the hour."));
  }
  if (isBroken(receipt)) {
    body.append(element("div", "The promise was broken: this request was in profile and did not get what it was owed.", { class: "notice", role: "alert" }));
  }
  body.append(element("p", `Receipt ${receipt.private.sequence ?? ""} of its flow, SHA-256 ${hex(found.leaf)}`, { class: "small muted break" }));
  result.replaceChildren(body, table(receipt, targets));
  if (targets?.[receipt.private.class_owed]) {
    result.append(element("p", "First token: what the grade promises now for 99 of 100 requests of up to 4,096 uncached prompt tokens. Per token: on average over an answer.", { class: "chart-note" }));
  }
  result.scrollIntoView({ block: "nearest" });
}

function refuse(text) {
  const body = element("div", "", { class: "panel-body" });
  body.append(element("p", text, { class: "strong sell", "data-verdict": "refused" }));
  result.replaceChildren(body);
}

async function canVerify() {
  if (!globalThis.crypto?.subtle) return false;
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), { name: "Ed25519" }, false, ["verify"]);
    return true;
  } catch (error) {
    return error.name !== "NotSupportedError";
  }
}

async function run() {
  if (!(await canVerify())) {
    refuse("This browser cannot check Ed25519 signatures here. Use a newer one over HTTPS, or manage.py verify_receipt.");
    return;
  }
  try {
    const receipt = parse(document.getElementById("document").value);
    const kept = document.getElementById("root-key").value.trim();
    const found = await verify(receipt, kept && unbase64(kept));
    const grades = await get("grades?limit=1000");
    const grade = grades?.results.find((one) => one.code === receipt.public.grade);
    show(receipt, found, grade?.targets);
  } catch (error) {
    if (error instanceof Refusal) refuse(error.message);
    else refuse("This could not be verified: it is not what a receipt or a key looks like.");
  }
}

document.getElementById("verify").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});

document.getElementById("file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) document.getElementById("document").value = (await file.text()).slice(0, 16385);
});
