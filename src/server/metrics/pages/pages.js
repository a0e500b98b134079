// The pages for people. Each asks for its JSON once a second and draws what it tells; what has been, this page alone
// remembers. Whatever the server says becomes text, never markup.

const EVERY_MS = 1000;
const KEPT = 300;

// ---- numbers, as people read them

const plain = (value) => {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)}G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return Number.isInteger(value) ? String(value) : value.toFixed(size < 10 ? 2 : 1);
};
const bytes = (value) => {
  if (value === undefined || value === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${value.toFixed(at === 0 || value >= 100 ? 0 : 1)} ${units[at]}`;
};
const seconds = (value) => {
  if (value === undefined || value === null) return "–";
  if (value >= 1) return `${value.toFixed(2)} s`;
  if (value >= 1e-3) return `${(value * 1e3).toFixed(value >= 0.1 ? 0 : 1)} ms`;
  return `${(value * 1e6).toFixed(0)} µs`;
};
const percent = (value) => (value === undefined || value === null ? "–" : `${(value * 100).toFixed(1)}%`);
const perSecond = (show) => (value) => `${show(value)}/s`;
const span = (value) => {
  const [days, hours, minutes] = [value / 86400, (value / 3600) % 24, (value / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(value % 60)} s`;
};

// ---- the page's parts

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const draw = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// The next 1, 2 or 5 times a power of ten.
const roundUp = (value) => {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((end) => end >= value * 0.999);
};

// Lines over the last minutes: a point a second, a gap where nothing is known.
class Chart {
  constructor(title, show) {
    this.show = show;
    this.lines = new Map();
    this.points = 0;
    this.top = make("span");
    this.legend = make("div", { class: "legend" });
    this.picture = draw("svg", { viewBox: `0 0 ${KEPT} 100`, preserveAspectRatio: "none", role: "img" });
    this.picture.setAttribute("aria-label", title);
    for (const y of [0, 50, 100]) this.picture.append(draw("line", { class: "grid", x1: 0, x2: KEPT, y1: y, y2: y }));
    this.cursor = draw("line", { class: "cursor", y1: 0, y2: 100, visibility: "hidden" });
    this.picture.append(this.cursor);
    this.at = null;
    this.picture.addEventListener("pointermove", (event) => this.pointed(event));
    this.picture.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    this.element = make("figure", {}, make("figcaption", {}, title, this.top), this.picture, this.legend);
  }

  // The newest value of each line, by its name.
  add(values) {
    for (const name of Object.keys(values)) if (!this.lines.has(name)) this.begin(name);
    this.points = Math.min(this.points + 1, KEPT);
    for (const [name, line] of this.lines) {
      line.values.push(values[name] ?? null);
      if (line.values.length > KEPT) line.values.shift();
    }
    this.draw();
  }

  begin(name) {
    const colour = `line${this.lines.size % 8}`;
    const path = draw("path", { class: colour });
    const value = make("span");
    this.legend.append(make("span", {}, make("i", { class: colour }), `${name} `, value));
    this.picture.append(path);
    this.lines.set(name, { values: Array(this.points).fill(null), path, value });
  }

  pointed(event) {
    const box = this.picture.getBoundingClientRect();
    const x = Math.round(((event.clientX - box.left) / box.width) * KEPT) - (KEPT - this.points);
    this.at = x >= 0 && x < this.points ? x : null;
    this.draw();
  }

  draw() {
    const known = [...this.lines.values()].flatMap((line) => line.values).filter((value) => value > 0);
    const top = known.length ? roundUp(known.reduce((one, other) => Math.max(one, other))) : 1;
    this.top.textContent = known.length ? `to ${this.show(top)}` : "";
    const begin = KEPT - this.points;
    for (const { values, path, value } of this.lines.values()) {
      let d = "";
      values.forEach((each, x) => {
        if (each === null) return;
        const pen = x > 0 && values[x - 1] !== null ? "L" : "M";
        d += `${pen}${begin + x} ${(100 - (each / top) * 100).toFixed(1)}`;
      });
      path.setAttribute("d", d);
      value.textContent = this.show(values[this.at ?? values.length - 1] ?? undefined);
    }
    this.cursor.setAttribute("visibility", this.at === null ? "hidden" : "visible");
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, begin + (this.at ?? 0));
  }
}

class Tiles {
  constructor() {
    this.element = make("div", { class: "tiles" });
    this.shown = new Map();
  }

  set(name, text) {
    if (!this.shown.has(name)) {
      const value = make("b");
      this.element.append(make("div", { class: "tile" }, make("span", {}, name), value));
      this.shown.set(name, value);
    }
    this.shown.get(name).textContent = text;
  }
}

class Table {
  constructor(columns) {
    this.body = make("tbody");
    const head = make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name))));
    this.element = make("div", { class: "scroll" }, make("table", {}, head, this.body));
  }

  set(rows) {
    this.body.replaceChildren(...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, String(text))))));
  }
}

const choice = (label, options) =>
  make("select", { "aria-label": label }, ...options.map(([value, text]) => make("option", { value }, text)));

// What a page of the server's own says went wrong.
const reasonIn = (text) => {
  try {
    return JSON.parse(text).detail;
  } catch {
    return undefined;
  }
};

const charts = (...all) => make("div", { class: "charts" }, ...all.map((each) => each.element));
const title = (text) => make("h2", {}, text);

// ---- what happened between two answers

// By how much a number grew in a second; unknown at first, and when it fell: then it is another server's.
const rate = (now, before, dt) => (before === undefined || now < before ? undefined : (now - before) / dt);
const added = (group) => Object.values(group ?? {}).reduce((sum, each) => sum + each, 0);

// Below what a share of the values was that came since. Buckets are a tenth wide.
const quantile = (now, before, share) => {
  const former = new Map((before?.buckets ?? []).map(([end, count]) => [end, count]));
  const grown = now.buckets.map(([end, count]) => [end, count - (former.get(end) ?? 0)]);
  const all = grown.reduce((sum, [, count]) => sum + count, 0);
  if (!before || all <= 0) return undefined;
  let left = share * all;
  for (const [end, count] of grown) {
    left -= count;
    if (left <= 0) return end ?? 100;
  }
  return undefined;
};

const byLabel = (workers) => new Map((workers ?? []).map((worker) => [worker.worker, worker]));
const living = (workers) => workers.filter((worker) => worker.state !== "gone");

// ---- the pages

const CLASSES = { "2xx": 2, "3xx": 3, "4xx": 4, "5xx": 5 };
const ofClass = (responses, first) =>
  Object.entries(responses).reduce((sum, [code, count]) => sum + (Math.floor(code / 100) === first ? count : 0), 0);

class Status {
  source = "status.json";
  about = make("p", { class: "about" });
  tiles = new Tiles();
  answers = new Chart("Responses", perSecond(plain));
  times = new Chart("Time to answer", seconds);
  open = new Chart("Connections", plain);
  traffic = new Chart("Traffic", perSecond(bytes));
  loops = new Chart("Event loops at work", percent);
  waits = new Chart("What callbacks wait for, p99", seconds);
  frames = new Chart("Frames", perSecond(plain));
  workers = new Table([
    "worker", "process", "generation", "state", "connections", "in progress", "responses/s", "loop at work", "processor",
    "memory",
  ]);
  parts = [
    this.about, this.tiles.element,
    charts(this.answers, this.times, this.open, this.traffic, this.loops, this.waits, this.frames),
    title("Workers"), this.workers.element,
  ];

  show(now, before, dt) {
    const [m, b] = [now.metrics, before?.metrics];
    const responses = rate(added(m.http_responses), b && added(b.http_responses), dt);
    const duration = "http_request_duration_seconds";
    const ofTime = (share) => quantile(m[duration], b?.[duration], share);
    const where = now.listeners.length ? ` at ${now.listeners.join(", ")}` : "";
    this.about.textContent = `Penstock ${now.version}, process ${now.pid}${where}, for ${span(now.uptime_s)}`;
    this.tiles.set("Responses", perSecond(plain)(responses));
    this.tiles.set("p50", seconds(ofTime(0.5)));
    this.tiles.set("p99", seconds(ofTime(0.99)));
    this.tiles.set("In progress", plain(m.http_requests_in_progress));
    this.tiles.set("Connections", plain(m.connections_open));
    this.tiles.set("Processor", percent(rate(m.worker_cpu_seconds, b?.worker_cpu_seconds, dt)));
    this.tiles.set("Memory", bytes(m.worker_resident_memory_bytes));
    this.tiles.set("Answered in all", plain(added(m.http_responses)));
    const inClass = (first) => rate(ofClass(m.http_responses, first), b && ofClass(b.http_responses, first), dt);
    this.answers.add(Object.fromEntries(Object.entries(CLASSES).map(([name, first]) => [name, inClass(first)])));
    this.times.add({ p50: ofTime(0.5), p90: ofTime(0.9), p99: ofTime(0.99), "p99.9": ofTime(0.999) });
    this.open.add({ open: m.connections_open, "in progress": m.http_requests_in_progress });
    this.traffic.add({
      received: rate(m.received_bytes, b?.received_bytes, dt), sent: rate(m.sent_bytes, b?.sent_bytes, dt),
    });
    const former = byLabel(before?.workers);
    const busy = (worker) => rate(worker.busy_seconds, former.get(worker.worker)?.busy_seconds, dt);
    this.loops.add(Object.fromEntries(now.workers.map((worker) => [worker.worker, busy(worker)])));
    const p99 = (name) => quantile(m[name], b?.[name], 0.99);
    this.waits.add({ "timers late": p99("loop_lag_seconds"), "for the interpreter": p99("python_gil_wait_seconds") });
    const [received, sent] = [m.stream_frames_received, m.stream_frames_sent];
    this.frames.element.hidden = received + sent === 0;
    this.frames.add({
      received: rate(received, b?.stream_frames_received, dt), sent: rate(sent, b?.stream_frames_sent, dt),
    });
    this.workers.set(now.workers.map((worker) => {
      const its = former.get(worker.worker);
      return [
        worker.worker, worker.pid, worker.generation, worker.state, plain(worker.connections), plain(worker.in_progress),
        plain(rate(worker.responses, its?.responses, dt)), percent(busy(worker)),
        percent(rate(worker.cpu_seconds, its?.cpu_seconds, dt)), bytes(worker.resident_bytes),
      ];
    }));
  }
}

// Single connections: asked of the loops that have them, so not as often as what is there to be read.
const LIST_EVERY_MS = 3000;
const STATES = ["", "new", "idle", "reading", "handling", "answering", "sending", "closing", "upgraded"];
const ORDERS = { oldest: "oldest", newest: "newest", queued: "most queued", bytes: "most bytes", silent: "longest silent" };

class ConnectionList {
  sort = choice("Sort by", Object.entries(ORDERS));
  state = choice("State", STATES.map((each) => [each, each || "any state"]));
  peer = make("input", { type: "search", placeholder: "10.0.0.0/8, ::1, unix", "aria-label": "Peers", maxlength: 200 });
  about = make("p", { class: "about", role: "status" });
  table = new Table([
    "worker", "process", "peer", "protocol", "state", "asks", "open for", "silent for", "received", "sent", "queued",
    "held", "round trip",
  ]);
  parts = [make("div", { class: "filters" }, this.sort, this.state, this.peer), this.about, this.table.element];
  asked = 0;

  constructor() {
    for (const each of [this.sort, this.state, this.peer]) each.addEventListener("change", () => this.ask());
    this.live();
  }

  async live() {
    for (;;) {
      if (!document.hidden) await this.ask();
      await new Promise((resume) => setTimeout(resume, LIST_EVERY_MS));
    }
  }

  async ask() {
    const number = (this.asked += 1);
    const query = new URLSearchParams({ sort: this.sort.value, state: this.state.value, peer: this.peer.value.trim() });
    try {
      const answer = await fetch(`connections/open.json?${query}`, {
        headers: { accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(10 * EVERY_MS),
      });
      const text = await answer.text();
      // An answer to what is not asked any more.
      if (number !== this.asked) return;
      if (!answer.ok) throw new Error(reasonIn(text) ?? `${answer.status} ${answer.statusText}`);
      this.show(JSON.parse(text));
    } catch (error) {
      if (number === this.asked) this.about.textContent = error.message;
    }
  }

  show({ open, matched, unanswered, connections }) {
    const silent = unanswered.length ? `; no answer in time from: ${unanswered.join(", ")}` : "";
    this.about.textContent = `${connections.length} of ${matched} shown, ${open} open${silent}`;
    this.table.set(connections.map((each) => [
      each.worker, each.pid, each.peer, each.protocol, each.state, each.asks ?? "", span(each.age_s),
      seconds(each.idle_s), bytes(each.received_bytes), bytes(each.sent_bytes), bytes(each.queued_bytes),
      bytes(each.held_bytes), seconds(each.round_trip_s),
    ]));
  }
}

class Connections {
  source = "connections.json";
  open = new Chart("Open", plain);
  accepted = new Chart("Accepted", perSecond(plain));
  closed = new Chart("Closed, by why", perSecond(plain));
  refused = new Chart("Requests refused, by why", perSecond(plain));
  table = new Table([
    "worker", "state", "open", "lingering", "accepted", "handed over", "finished", "idle", "stalled", "aborted", "failed",
    "turned away", "upgraded", "received", "sent",
  ]);
  parts = [
    charts(this.open, this.accepted, this.closed, this.refused), title("Each worker, since the server's start"),
    this.table.element, title("Open connections"), ...new ConnectionList().parts,
  ];

  show(now, before, dt) {
    const former = byLabel(before?.workers);
    const there = living(now.workers);
    this.open.add(Object.fromEntries(there.map((worker) => [worker.worker, worker.connections])));
    const accepted = ({ connections_accepted: own, connections_handed_over: given }) => own + given;
    this.accepted.add(Object.fromEntries(there.map((worker) => {
      const its = former.get(worker.worker);
      return [worker.worker, rate(accepted(worker.metrics), its && accepted(its.metrics), dt)];
    })));
    this.closed.add(this.#grown(now, before, dt, "connections_closed"));
    this.refused.add(this.#grown(now, before, dt, "http_requests_refused"));
    this.table.set(now.workers.map(({ worker, state, metrics: m }) => {
      const { finished, idle, stalled, aborted, failed } = m.connections_closed;
      const counts = [
        m.connections_open, m.connections_lingering, m.connections_accepted, m.connections_handed_over, finished, idle,
        stalled, aborted, failed, added(m.connections_refused), m.connections_upgraded,
      ];
      return [worker, state, ...counts.map(plain), bytes(m.received_bytes), bytes(m.sent_bytes)];
    }));
  }

  // What each value of the label grew by in a second, over all workers.
  #grown(now, before, dt, name) {
    const sum = (answer, value) => answer.workers.reduce((all, { metrics }) => all + metrics[name][value], 0);
    const values = Object.keys(now.workers[0]?.metrics[name] ?? {});
    return Object.fromEntries(
      values.map((value) => [value.replaceAll("_", " "), rate(sum(now, value), before && sum(before, value), dt)]),
    );
  }
}

class Reactors {
  source = "reactors.json";
  busy = new Chart("At work", percent);
  turns = new Chart("Turn, p99", seconds);
  holds = new Chart("Interpreter held, p99", seconds);
  waits = new Chart("Interpreter waited for, p99", seconds);
  lag = new Chart("Timers late, p99", seconds);
  batches = new Chart("Events in a batch, p99", plain);
  table = new Table([
    "worker", "state", "at work", "turns/s", "turn p50", "turn p99", "batch p50", "batch p99", "GIL held p99",
    "GIL waited p99", "waiting", "deadlines", "timers", "spare buffers", "out of budget/s", "slow callbacks",
  ]);
  threads = new Table(["worker", "threads", "busy", "queued", "most ever", "taken/s", "rejected"]);
  threadsTitle = title("WSGI threads");
  parts = [
    charts(this.busy, this.turns, this.holds, this.waits, this.lag, this.batches), title("Event loops"),
    this.table.element, this.threadsTitle, this.threads.element,
  ];

  show(now, before, dt) {
    const former = byLabel(before?.workers);
    const there = living(now.workers);
    const ofEach = (tell) =>
      Object.fromEntries(there.map((worker) => [worker.worker, tell(worker.metrics, former.get(worker.worker)?.metrics)]));
    const p = (name, share) => (m, b) => quantile(m[name], b?.[name], share);
    const grown = (name) => (m, b) => rate(m[name], b?.[name], dt);
    const [turn, batch] = ["loop_turn_duration_seconds", "python_batch_events"];
    const [held, waited] = ["python_gil_hold_seconds", "python_gil_wait_seconds"];
    this.busy.add(ofEach(grown("loop_busy_seconds")));
    this.turns.add(ofEach(p(turn, 0.99)));
    this.holds.add(ofEach(p(held, 0.99)));
    this.waits.add(ofEach(p(waited, 0.99)));
    this.lag.add(ofEach(p("loop_lag_seconds", 0.99)));
    this.batches.add(ofEach(p(batch, 0.99)));
    this.table.set(there.map(({ worker, state, metrics: m }) => {
      const b = former.get(worker)?.metrics;
      const of = (tell) => tell(m, b);
      return [
        worker, state, percent(of(grown("loop_busy_seconds"))), plain(of(grown("loop_turns"))),
        seconds(of(p(turn, 0.5))), seconds(of(p(turn, 0.99))), plain(of(p(batch, 0.5))), plain(of(p(batch, 0.99))),
        seconds(of(p(held, 0.99))), seconds(of(p(waited, 0.99))), plain(m.loop_events_waiting), plain(m.loop_deadlines),
        plain(m.loop_asyncio_timers), plain(m.loop_spare_buffers), plain(of(grown("python_budget_exhausted"))),
        plain(m.python_slow_callbacks),
      ];
    }));
    const pools = there.filter(({ metrics }) => metrics.wsgi_threads > 0);
    this.threadsTitle.hidden = this.threads.element.hidden = pools.length === 0;
    this.threads.set(pools.map(({ worker, metrics: m }) => [
      worker, m.wsgi_threads, m.wsgi_threads_busy, m.wsgi_requests_queued, m.wsgi_requests_queued_max,
      plain(grown("wsgi_requests_taken")(m, former.get(worker)?.metrics)), plain(m.wsgi_requests_rejected),
    ]));
  }
}

class Config {
  source = "config.json";
  once = true;
  filter = make("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the settings" });
  list = make("div");
  parts = [this.filter, this.list];

  show({ groups }) {
    this.list.replaceChildren(...groups.flatMap(({ name, settings }) => [title(name), this.#table(settings)]));
    this.filter.addEventListener("input", () => this.#look(this.filter.value.toLowerCase()));
  }

  #table(settings) {
    const rows = settings.map(({ flag, value, is_default, help }) => {
      const text = value === null || value.length === 0 ? "none" : [value].flat().join(" ");
      return make("tr", is_default ? {} : { class: "changed" }, ...[flag, text, help].map((each) => make("td", {}, each)));
    });
    return make("div", { class: "scroll" }, make("table", { class: "settings" }, make("tbody", {}, ...rows)));
  }

  #look(wanted) {
    for (const row of this.list.querySelectorAll("tr")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    for (const each of this.list.querySelectorAll("h2")) {
      each.hidden = each.nextElementSibling.hidden = !each.nextElementSibling.querySelector("tr:not([hidden])");
    }
  }
}

// ---- asking, and telling when nobody answers

const PAGES = { "": ["status", Status], connections: ["connections", Connections], reactors: ["reactors", Reactors],
  config: ["config", Config] };
const [name, Page] = PAGES[location.pathname.split("/").at(-1)] ?? PAGES[""];
const page = new Page();
const state = document.getElementById("state");

const ask = async () => {
  const answer = await fetch(page.source, { cache: "no-store", signal: AbortSignal.timeout(10 * EVERY_MS) });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.json();
};

const tell = (text, isLost) => {
  state.textContent = text;
  state.classList.toggle("lost", isLost);
};

const live = async () => {
  let before;
  for (;;) {
    try {
      const now = await ask();
      // Another server, or the same after a start: nothing of before can be compared.
      if (before && now.uptime_s < before.uptime_s) before = undefined;
      page.show(now, before, before && now.uptime_s - before.uptime_s);
      if (page.once) return tell("", false);
      before = now;
      tell("live", false);
    } catch (error) {
      tell(`no answer: ${error.message}`, true);
    }
    await new Promise((resume) => setTimeout(resume, EVERY_MS));
  }
};

document.title = `Penstock: ${name}`;
document.querySelector("main").append(...page.parts);
for (const link of document.querySelectorAll("nav a")) {
  if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
}
live();
