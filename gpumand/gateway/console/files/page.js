// The web page of the gateway. Everything that is shown comes from programs that may be hostile, so text is only ever
// put into text nodes: this module never parses HTML, and the page's policy forbids it.

const API = "/gateway/v1/";
const KEY = "gpumand-key";
const RETRY_MS = 2000;
const MESSAGE_MS = 12000;
const GIB = 1024;
const FLEET_MS = 2000;
const NO_FLEET_MS = 30000; // a gateway without a fleet may get one at a reload

const page = {
  state: null, // the last state
  session: { client: "", has_key: false, may_evict: false, consumers: null },
  stream: null,
  isConnected: false,
  clockOffsetMs: 0, // clock of the host minus clock of the browser
  running: new Set(), // actions whose answer is awaited
  fleet: null, // all hosts; null = there is no fleet
  historyMark: "", // the counters of gpumand for which the history was read
};

const byId = (id) => document.getElementById(id);

// -- elements ----------------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== "" && child != null));
  return made;
}

/** Set the children of an element, unless they are the same already: the focus and a selection stay. */
function fill(parent, ...children) {
  const wanted = children.filter((child) => child !== "" && child != null);
  const made = element("div", {}, ...wanted);
  if (made.innerHTML !== parent.innerHTML) parent.replaceChildren(...made.childNodes);
}

/** Make the children of an element agree with items: elements are kept by key, so that the focus stays where it is. */
function sync(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    old.delete(key);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
}

/** Rows of a table: the cells of an item are arrays of children, by the headings of the table. */
function syncTable(id, items, keyOf, cellsOf) {
  const table = byId(id);
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  table.hidden = items.length === 0;
  table.nextElementSibling.hidden = items.length > 0;
  const newCell = (label) => element("td", { role: "cell", "data-label": label }, element("div"));
  const create = () => element("tr", { role: "row" }, ...labels.map(newCell));
  sync(table.tBodies[0], items, keyOf, create, (row, item) => {
    cellsOf(item).forEach((content, index) => {
      const cell = row.cells[index];
      const isActions = labels[index] === "Actions";
      cell.className = (isActions ? "actions " : "") + (content.some((one) => one !== "" && one != null) ? "" : "blank ");
      if (isActions) syncButtons(cell.firstElementChild, content);
      else fill(cell.firstElementChild, ...content);
    });
  });
}

/** Buttons of a row, kept by their name: {name, label, run, isDisabled}. */
function syncButtons(group, buttons) {
  group.className = "buttons";
  const create = (one) => element("button", { type: "button", textContent: one.name, "aria-label": one.label });
  sync(group, buttons, (one) => one.name, create, (button, one) => {
    button.onclick = one.run;
    button.disabled = one.isDisabled || !page.isConnected || Boolean(page.state?.gpumand.absence);
  });
}

/** The entry of a table of words. Words of a later gpumand are unknown, and "constructor" is one of every object. */
const entryOf = (words, word, otherwise) => (Object.hasOwn(words, word) ? words[word] : otherwise);
const badge = (text, level) => element("span", { className: "badge", textContent: text, "data-level": level });
const note = (text, className = "dim") => (text ? element("div", { className: `${className} text`, textContent: text }) : "");

// -- numbers and times -------------------------------------------------------------------------------------------------

function size(mib) {
  if (mib == null) return "unknown";
  return mib >= GIB ? `${(mib / GIB).toFixed(1)} GiB` : `${mib} MiB`;
}

function bytes(count) {
  return count < 1024 * 1024 ? `${(count / 1024).toFixed(count < 10240 ? 1 : 0)} KiB` : size(Math.round(count / 1048576));
}

function duration(seconds) {
  if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function ago(usec) {
  const seconds = (Date.now() + page.clockOffsetMs) / 1000 - usec / 1e6;
  return seconds < 1.5 ? "now" : `${duration(Math.max(2, Math.round(seconds)))} ago`;
}

function clock(usec) {
  const time = new Date(usec / 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? time.toLocaleTimeString() : time.toLocaleString();
}

// -- devices -----------------------------------------------------------------------------------------------------------

function usedOn(device, consumer) {
  const byDevice = consumer.used_by_device?.[String(device.index)];
  return byDevice ?? (consumer.device === String(device.index) ? consumer.used_mib : undefined) ?? 0;
}

/** The parts of a device's bar, in order: name, MiB, class of its colour. */
function parts(device, consumers) {
  const found = consumers.map((one, index) => ({ name: one.name, mib: usedOn(device, one), kind: `c${index % 8}` }));
  // Consumers in one unit share its memory, which each of them shows.
  const isShared = (index) => consumers[index].shared_with?.some((name) => consumers.findIndex((one) => one.name === name) < index);
  const own = found.filter((one, index) => one.mib > 0 && !isShared(index));
  const others = [
    { name: "Other programs", mib: device.foreign_mib ?? 0, kind: "foreign" },
    { name: "Unnamed", mib: device.unnamed_mib ?? 0, kind: "unnamed" },
    { name: "Reserved", mib: device.reserved_mib ?? 0, kind: "reserved" },
  ];
  return [...own, ...others.filter((one) => one.mib > 0)];
}

function showDevice(node, device) {
  const [head, bar, legend, foreign, error, graph] = node.children;
  const all = parts(device, page.state.status.consumers);
  const shown = all.reduce((sum, one) => sum + one.mib, 0);
  const total = Math.max(device.total_mib ?? 0, shown, 1);
  // Memory that cannot be read is not free.
  const rest = device.total_mib == null ? null : total - shown;
  if (device.free_mib == null) all.push({ name: "Unknown", mib: rest, kind: "unknown" });
  const free = device.free_mib == null ? null : Math.max(0, device.free_mib - (device.reserved_mib ?? 0));
  fill(head, element("h3", { textContent: `GPU ${device.index}: ${device.name || device.source}` }), readings(device));
  sync(bar, all, (one) => one.name, () => element("span"), (span, one) => {
    span.className = one.kind;
    span.title = `${one.name}: ${size(one.mib)}`;
    span.style.width = one.mib == null ? "100%" : `${(100 * one.mib) / total}%`;
  });
  const words = all.map((one) => `${one.name} ${size(one.mib)}`);
  bar.setAttribute("aria-label", `Memory of GPU ${device.index}: ${[...words, `free ${size(free)}`].join(", ")}`);
  const entries = free == null ? all : [...all, { name: "Free", mib: free, kind: "" }];
  fill(legend, ...entries.map((one) => element("li", {},
    element("span", { className: `swatch ${one.kind}` }), one.name, element("span", { className: "mib", textContent: one.mib == null ? "" : size(one.mib) }))));
  const programs = (device.foreign ?? []).slice(0, 4).map((one) => `${one.container || one.unit || one.name} (${size(one.used_mib)})`);
  foreign.textContent = programs.length ? `Other programs: ${programs.join(", ")}` : "";
  error.textContent = device.error || (device.unchecked ? "Loads are not checked against real memory." : "");
  drawGraph(graph, device);
}

function readings(device) {
  const known = [];
  if (device.total_mib != null) known.push([size(device.used_mib), `of ${size(device.total_mib)}`]);
  if (device.utilization_percent != null) known.push([`${device.utilization_percent} %`, "busy"]);
  if (device.temperature_celsius != null) known.push([`${device.temperature_celsius} °C`, ""]);
  if (device.power_watts != null) known.push([`${Math.round(device.power_watts)} W`, ""]);
  if (device.asleep) known.push(["asleep", ""]);
  const made = known.map(([value, unit]) => element("span", {}, element("b", { textContent: value }), unit && ` ${unit}`));
  return element("div", { className: "readings" }, ...made);
}

/** The memory in use at the last readings. */
function drawGraph(graph, device) {
  const values = device.history?.used_mib ?? [];
  graph.toggleAttribute("hidden", values.length < 2 || !device.total_mib);
  if (graph.hasAttribute("hidden")) return;
  const step = 100 / (values.length - 1);
  const points = values.map((mib, index) => [index * step, 100 - (100 * Math.max(0, mib)) / device.total_mib])
    .filter((_, index) => values[index] >= 0).map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`);
  const [area, line] = graph.children;
  line.setAttribute("points", points.join(" "));
  const ends = [points.at(0), points.at(-1)].map((point) => point?.split(",")[0]);
  area.setAttribute("points", points.length ? `${ends[0]},100 ${points.join(" ")} ${ends[1]},100` : "");
}

function newDevice(device) {
  const svg = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const graph = svg("svg");
  graph.setAttribute("class", "graph");
  graph.setAttribute("viewBox", "0 0 100 100");
  graph.setAttribute("preserveAspectRatio", "none");
  graph.setAttribute("role", "img");
  graph.setAttribute("aria-label", `Memory in use on GPU ${device.index} at the last readings`);
  graph.append(svg("polygon"), svg("polyline"));
  return element("div", {}, element("div", { className: "device-head" }), element("div", { className: "bar", role: "img" }),
    element("ul", { className: "legend" }), element("p", { className: "dim text" }), element("p", { className: "error" }), graph);
}

// -- services ----------------------------------------------------------------------------------------------------------

const LEVELS = { resident: "good", loading: "wait", unloading: "wait", failed: "bad", parked: "wait" };

function stateOf(consumer) {
  const isIdle = consumer.residency === "unloaded" && consumer.unit_state === "active";
  return isIdle ? "idle" : consumer.residency;
}

function requirement(consumer) {
  return consumer.vram_resident_mib == null ? "requirement unknown" : `needs ${size(consumer.vram_resident_mib)}`;
}

function serviceCells(consumer) {
  const requests = page.state.requests.filter((one) => one.consumer === consumer.name);
  const waiting = requests.filter((one) => one.state === "waiting").length;
  const jobs = requests.filter((one) => one.state === "job").length;
  const running = requests.length - waiting - jobs;
  const counts = [running && `${running} in flight`, jobs && `${jobs} held`, waiting && `${waiting} waiting`];
  const used = consumer.used_mib ? `${size(consumer.used_mib)}` : "";
  const need = size(consumer.vram_resident_mib) === used ? "" : requirement(consumer);
  return [
    [element("strong", { textContent: consumer.name }), link(consumer)],
    [badge(stateOf(consumer), entryOf(LEVELS, consumer.residency, "off")), consumer.pinned ? badge("pinned", "off") : "",
      note(consumer.doing), ...problem(consumer.error), note(pause(consumer))],
    [used, note(need)],
    [consumer.leases ? String(consumer.leases) : ""],
    [counts.filter(Boolean).join(", ")],
    [consumer.leases ? "in use" : consumer.last_used_usec ? ago(consumer.last_used_usec) : "never"],
    serviceButtons(consumer),
  ];
}

/** What gpumand writes between the reason of a failed load and the last lines of its log, and between these. */
const LAST_LINES = "; last lines: ";
const LINE_SEPARATOR = " | ";

/** A problem; of a failed load, each of the last lines of its log is on a line of its own. */
function problem(error) {
  const [reason, ...rest] = (error ?? "").split(LAST_LINES);
  if (!rest.length) return [note(error, "error")];
  const log = rest.join(LAST_LINES).split(LINE_SEPARATOR).map((line) => element("li", { textContent: line }));
  return [note(reason, "error"), element("ul", { className: "log", "aria-label": "Last lines of the log" }, ...log)];
}

/** When gpumand tries the next load after failed ones; the time stays in the status when it has passed. */
function pause(consumer) {
  const seconds = (consumer.retry_usec ?? 0) / 1e6 - (Date.now() + page.clockOffsetMs) / 1000;
  return seconds > 0.5 ? `Next load possible in ${duration(Math.round(seconds))}.` : "";
}

/** A link to the address of the gateway at which browsers find the service. */
function link(consumer) {
  const own = page.state.gateway.listeners.find((one) => one.consumer === consumer.name && /:\d{1,5}$/.test(one.address));
  if (!own || own.address.startsWith("unix:")) return "";
  const target = new URL(location.href);
  target.port = own.address.split(":").at(-1);
  const label = `Open ${consumer.name}`;
  return element("div", {}, element("a", { href: target.origin, textContent: "open", rel: "noreferrer", "aria-label": label }));
}

function serviceButtons(consumer) {
  const { session } = page;
  const act = (verb, name) => ({
    name,
    label: `${name} ${consumer.name}`,
    isDisabled: page.running.has(`${verb} ${consumer.name}`),
    run: () => change(verb, consumer.name),
  });
  const isLoaded = ["resident", "loading", "unloading"].includes(consumer.residency);
  const mayLoad = session.consumers === null || session.consumers.includes(consumer.name);
  const found = mayLoad && !isLoaded ? [act("load", "Load")] : [];
  if (session.may_evict && consumer.residency !== "unloaded") found.push(act("evict", "Evict"));
  if (session.may_evict) found.push(consumer.pinned ? act("unpin", "Unpin") : act("pin", "Pin"));
  return found;
}

const DONE = { load: "is loaded", evict: "was evicted", pin: "is pinned", unpin: "is not pinned any more" };

async function change(verb, name, options = {}) {
  const key = `${verb} ${name}`;
  page.running.add(key);
  render();
  try {
    await post(`consumers/${encodeURIComponent(name)}/${verb}`, options);
    say(`${name} ${DONE[verb]}.`);
  } catch (error) {
    if (verb === "evict" && error.code === "busy" && !options.force) askToForce(name, error.message);
    else say(error.message, "bad");
  } finally {
    page.running.delete(key);
    render();
  }
}

function askToForce(name, reason) {
  const dialog = byId("force-dialog");
  byId("force-text").textContent = reason;
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue === "force" && change("evict", name, { force: true });
  dialog.showModal();
}

// -- hosts -------------------------------------------------------------------------------------------------------------

const HOST_LEVELS = { up: "good", drained: "wait", lost: "bad" };
const isLoaded = (consumer) => ["resident", "loading", "unloading", "parked"].includes(consumer.r);

async function readFleet() {
  let pause = FLEET_MS;
  if (page.isConnected && !document.hidden) {
    try {
      page.fleet = (await get("fleet")).fleet;
      if (!page.fleet) pause = NO_FLEET_MS;
    } catch {
      // The stream of events reports a gateway that does not answer.
    }
    showFleet();
  }
  setTimeout(readFleet, pause);
}

function showFleet() {
  const { fleet } = page;
  byId("fleet").hidden = !fleet;
  if (!fleet) return;
  const notice = fleet.absence || (fleet.degraded ? `The fleet works with restrictions: ${fleet.degraded}` : "");
  setText(byId("fleet-notice"), notice);
  byId("fleet-notice").hidden = !notice;
  syncTable("hosts", fleet.hosts ?? [], (one) => one.row.id, hostCells);
}

function hostCells(host) {
  const { row } = host;
  const consumers = Object.entries(row.consumers ?? {});
  const loaded = consumers.filter(([, one]) => isLoaded(one)).map(([name, one]) => (one.r === "resident" ? name : `${name} (${one.r})`));
  const free = (row.gpus ?? []).map((one) => (one.free == null ? "unknown" : size(one.free)));
  const leases = consumers.reduce((sum, [, one]) => sum + (one.leases ?? 0), 0);
  return [
    [element("strong", { textContent: row.name || row.id }), note(host.local ? "this host" : "")],
    [badge(host.state, entryOf(HOST_LEVELS, host.state, "wait")), note(host.why)],
    [free.join(", ")],
    [note(loaded.join(", "), "text")],
    [leases ? String(leases) : ""],
    [row.queue ? String(row.queue) : ""],
  ];
}

// -- queue and requests ------------------------------------------------------------------------------------------------

function queueCells(waiting) {
  const what = waiting.all ? "a whole GPU" : `${size(waiting.vram_mib)} of memory`;
  return [
    [element("strong", { textContent: waiting.consumer || what }), note(waiting.reason)],
    [String(waiting.position)],
    [`${duration(waiting.waited_usec / 1e6)} ago`],
    [waiting.priority ? String(waiting.priority) : ""],
    [note(waiting.waiting_for, "text")],
  ];
}

function requestCells(request) {
  // The work of a job cannot be cancelled from here: only its lease is given back.
  const name = request.state === "job" ? "Release" : "Cancel";
  const cancel = { name, label: `${name} ${request.method} ${request.path} of ${request.client}`, run: () => cancelRequest(request.number) };
  const { session } = page;
  const mayCancel = session.may_evict || (session.has_key && request.client === session.client);
  return [
    [element("strong", { textContent: request.consumer || "not known yet" })],
    [element("code", { className: "text", textContent: `${request.method} ${request.path}` })],
    [element("span", { className: "text", textContent: request.client })],
    [badge(request.state, request.state === "waiting" ? "wait" : "good"), note(waitOf(request))],
    [ago(request.began_usec)],
    [[request.status, request.sent_bytes && bytes(request.sent_bytes)].filter(Boolean).join(", ")],
    mayCancel ? [cancel] : [],
  ];
}

/** Why a request waits, in short if the queue has the reason, or why a job is held. */
function waitOf(request) {
  if (request.state === "job") return `held: ${request.waits_for}`;
  if (request.state !== "waiting") return "";
  const { queue } = page.state.status;
  const found = queue.find((one) => one.consumer === request.consumer);
  return found ? `place ${found.position} of ${queue.length} in the queue` : request.waits_for;
}

async function cancelRequest(number) {
  try {
    const done = await post(`requests/${number}/cancel`, {});
    say(done.message || "The request was cancelled.");
  } catch (error) {
    say(error.message, "bad");
  }
}

// -- plan and history --------------------------------------------------------------------------------------------------

const VERDICTS = { grant: ["would be served now", "good"], wait: ["would wait", "wait"], refuse: ["would be refused", "bad"] };

async function showPlan(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  byId("plan-size").hidden = Boolean(form.get("consumer"));
  const query = form.get("consumer") ? { consumer: form.get("consumer") } : { vram_mib: form.get("vram_mib") };
  try {
    fill(byId("plan"), planResult((await get(`plan?${new URLSearchParams(query)}`)).plan));
  } catch (error) {
    fill(byId("plan"), note(error.message, "error"));
  }
}

function planResult(plan) {
  const [verdict, level] = entryOf(VERDICTS, plan.verdict, [plan.verdict, "off"]);
  const what = plan.consumer || "The reservation";
  const victims = plan.evictions.map((one) => element("li", {}, element("strong", { textContent: one.consumer }),
    ` would be ${one.parks ? "parked" : "evicted"}`, one.expected_mib ? `, which frees ${size(one.expected_mib)}` : "", one.why ? `: ${one.why}` : ""));
  const spared = plan.spared.map((one) => element("li", {}, element("strong", { textContent: one.consumer }), ` would stay: ${one.why}`));
  const memory = plan.need_mib == null ? "" : `Needs ${size(plan.need_mib)}; ${size(plan.free_mib)} free`;
  const list = victims.length + spared.length ? element("ul", {}, ...victims, ...spared) : "";
  const load = plan.load ? note(`${what} would be loaded${plan.device === "" ? "" : ` on GPU ${plan.device}`}.`) : "";
  return element("div", { className: "plan" }, element("p", {}, element("strong", { textContent: what }), " ", badge(verdict, level)),
    note(plan.message, "text"), list, load, note(memory));
}

const EVENTS = {
  grant: ["lease granted", "off"], end: ["lease ended", "off"], refusal: ["refused", "bad"], load: ["loaded", "good"],
  "load-failed": ["load failed", "bad"], eviction: ["evicted", "wait"], "eviction-failed": ["eviction failed", "bad"],
  "eviction-deferred": ["unload put off", "wait"],
};

async function readHistory() {
  const query = new URLSearchParams({ limit: "50", consumer: byId("history-consumer").value, kinds: byId("history-kinds").value });
  let entries;
  try {
    ({ entries } = await get(`history?${query}`));
  } catch {
    return; // The stream reports that gpumand is away.
  }
  const numbered = entries.map((one, index) => ({ ...one, index }));
  syncTable("history", numbered, (one) => `${one.at_usec} ${one.kind} ${one.index}`, historyCells);
}

function historyCells(entry) {
  const [text, level] = entryOf(EVENTS, entry.kind, [entry.kind, "off"]);
  const trigger = entry.trigger ? `for ${entry.trigger}` : "";
  const freed = entry.mib ? `${size(entry.mib)} freed` : "";
  return [
    [clock(entry.at_usec)],
    [badge(text, level)],
    [element("strong", { textContent: entry.consumer || "reservation" })],
    [entry.duration_usec ? duration(entry.duration_usec / 1e6) : ""],
    [note([trigger, freed, entry.detail].filter(Boolean).join(", "), "text")],
  ];
}

function syncChoices(select, others, names) {
  sync(select, [...others, ...names.map((name) => [name, name])], ([value]) => value || "none",
    ([value, text]) => element("option", { value, textContent: text }), () => {});
}

// -- the page ----------------------------------------------------------------------------------------------------------

function render() {
  const { state } = page;
  showConnection();
  if (!state?.status) return;
  const { devices, consumers, queue, stats } = state.status;
  sync(byId("devices"), devices, (one) => one.uuid || one.index, newDevice, showDevice);
  syncTable("services", consumers, (one) => one.name, serviceCells);
  syncTable("queue", queue, (one) => `${one.position} ${one.consumer}`, queueCells);
  syncTable("requests", state.requests, (one) => one.number, requestCells);
  const names = consumers.map((one) => one.name);
  const sizeField = byId("plan-size");
  // A key for some consumers may not ask about memory for any program.
  const others = page.session.consumers === null ? [["", "memory for another program"]] : [];
  syncChoices(byId("plan-consumer"), others, names);
  syncChoices(byId("history-consumer"), [["", "all"]], names);
  sizeField.hidden = byId("plan-consumer").value !== "";
  const mark = JSON.stringify(stats);
  if (mark !== page.historyMark && page.isConnected && !state.gpumand.absence) {
    page.historyMark = mark;
    readHistory();
  }
  byId("about").textContent = `gpumand ${state.status.version}, gateway ${state.gateway.version}`;
}

function showConnection() {
  const { state, isConnected } = page;
  const absence = state?.gpumand.absence ?? "";
  const degraded = state?.status?.degraded ?? "";
  const since = state?.gpumand.read_usec ? ` The page shows the state of ${clock(state.gpumand.read_usec)}.` : "";
  let notice = "";
  if (!isConnected && state) notice = `The gateway does not answer. This page reconnects by itself.${since}`;
  else if (absence) notice = `gpumand cannot be reached: ${absence}.${since}`.replaceAll("..", ".");
  else if (degraded) notice = `gpumand works with restrictions: ${degraded}`;
  const [text, level] = !isConnected ? ["Connecting…", "wait"] : absence ? ["gpumand is away", "bad"] : ["Live", "good"];
  setText(byId("connection"), text);
  byId("connection").dataset.level = level;
  setText(byId("notice"), notice);
  byId("notice").hidden = !notice;
  byId("main").classList.toggle("stale", Boolean(state) && (!isConnected || Boolean(absence)));
  const { session } = page;
  setText(byId("client"), hasKey() || session.has_key ? session.client : "");
  setText(byId("sign-in"), hasKey() ? "Sign out" : "Sign in");
  // The browser itself has asked for the key, and a page cannot make it forget one.
  byId("sign-in").hidden = session.has_key && !hasKey();
}

/** Screen readers announce a change of text, so a text that is the same is not set again. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function say(text, level = "good") {
  const message = element("p", { textContent: text, "data-level": level });
  byId("messages").append(message);
  while (byId("messages").childElementCount > 4) byId("messages").firstElementChild.remove();
  setTimeout(() => message.remove(), MESSAGE_MS);
}

// -- connection --------------------------------------------------------------------------------------------------------

const hasKey = () => Boolean(sessionStorage.getItem(KEY));

async function ask(path, options = {}, key = sessionStorage.getItem(KEY)) {
  const headers = { Accept: "application/json", ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    // Without credentials of its own, the browser does not open its dialog for a key that is refused.
    const credentials = key ? "omit" : "same-origin";
    answer = await fetch(API + path, { ...options, headers, credentials, cache: "no-store", redirect: "error" });
  } catch {
    throw new Error("The gateway does not answer.");
  }
  const fields = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const message = fields.error?.message ?? `The gateway has answered with status ${answer.status}.`;
    throw Object.assign(new Error(message), { code: fields.error?.code });
  }
  return fields;
}

const get = (path) => ask(path);
const post = (path, fields) =>
  ask(path, { method: "POST", body: JSON.stringify(fields), headers: { "Content-Type": "application/json" } });

function connect() {
  page.stream?.close();
  const stream = new EventSource(`${API}events`);
  page.stream = stream;
  stream.addEventListener("state", (event) => {
    const isNew = !page.isConnected;
    page.state = JSON.parse(event.data);
    page.isConnected = true;
    if (!page.state.gpumand.absence) page.clockOffsetMs = page.state.gpumand.read_usec / 1000 - Date.now();
    if (isNew) {
      // The rights may have changed meanwhile, and with them what the history has.
      page.historyMark = "";
      readSession();
    }
    render();
  });
  stream.onerror = () => {
    page.isConnected = false;
    // After an answer with an error status the browser does not try again by itself.
    if (stream.readyState === EventSource.CLOSED && page.stream === stream) setTimeout(connect, RETRY_MS);
    render();
  };
}

async function readSession() {
  try {
    page.session = await get("session");
  } catch (error) {
    // A key that was revoked, or a gateway that went away again; the stream reports the latter.
    if (hasKey() && error.code) signOut();
  }
  render();
}

async function signIn(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  try {
    const session = await ask("session", {}, key);
    if (!session.may_evict) throw new Error("This key does not allow to evict and pin services.");
    page.session = session;
    sessionStorage.setItem(KEY, key);
    byId("key-dialog").close();
    byId("key").value = "";
    render();
  } catch (error) {
    byId("key-error").textContent = error.message;
  }
}

function signOut() {
  sessionStorage.removeItem(KEY);
  page.session = { client: "", has_key: false, may_evict: false, consumers: null };
  readSession();
}

function start() {
  byId("sign-in").onclick = () => {
    if (hasKey()) return signOut();
    byId("key-error").textContent = "";
    return byId("key-dialog").showModal();
  };
  byId("key-cancel").onclick = () => byId("key-dialog").close();
  byId("key-form").onsubmit = signIn;
  byId("plan-form").onsubmit = showPlan;
  byId("plan-consumer").onchange = render;
  byId("history-form").onsubmit = (event) => event.preventDefault();
  byId("history-form").onchange = readHistory;
  // A page in the background needs no readings, and must not be the reason that the driver is opened.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    page.stream?.close();
    page.isConnected = false;
    return undefined;
  });
  setInterval(() => page.isConnected && render(), 1000);
  connect();
  readFleet();
}

start();
