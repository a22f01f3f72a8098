// The rollouts that the filters leave, as a list of which only the rows in view exist.

const SPARE_ROWS = 8;
const SORTS = {
  "newest first": (index) => (a, b) => index.step[b] - index.step[a] || a - b,
  "oldest first": () => (a, b) => a - b,
  "reward, high first": (index) => (a, b) => index.columns.reward[b] - index.columns.reward[a] || a - b,
  "reward, low first": (index) => (a, b) => index.columns.reward[a] - index.columns.reward[b] || a - b,
  "advantage, high first": (index) => (a, b) => index.columns.advantage[b] - index.columns.advantage[a] || a - b,
  "cost, high first": (index) => (a, b) => (index.columns.usd[b] ?? 0) - (index.columns.usd[a] ?? 0) || a - b,
  "time, long first": (index) => (a, b) => index.columns.seconds[b] - index.columns.seconds[a] || a - b,
};

/** The list of rollouts: `show(index)` with new data, `choose({…})` sets filters, `open(i)` is called with a rollout. */
class RolloutList {
  constructor(open) {
    this.open = open;
    this.index = null;
    this.shown = [];
    this.active = 0;
    this.shape = null;
    this.rows = el("div", { class: "rows" });
    this.box = el("div", { class: "viewport", tabindex: 0, role: "listbox", "aria-label": "Rollouts", onscroll: () => this.draw(),
      onkeydown: (event) => this.key(event) }, this.rows);
    this.form = byId("filters");
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", () => { this.shape = null; setTimeout(() => this.filter()); });
    addEventListener("resize", () => this.draw());
  }

  show(index) {
    const first = this.index === null;
    this.index = index;
    if (first) this.form.replaceChildren(...this.controls());
    this.offer("domain", index.dictionaries.domain, "any domain");
    const kinds = index.dictionaries.outcome.flatMap((name) => (name === "SCORED" ? [RIGHT, NOT_RIGHT] : [name]));
    this.offer("outcome", kinds, "any outcome");
    this.form.hidden = !index.size;
    byId("list").replaceChildren(index.size ? this.box
      : emptyState("No rollouts yet", "Each step's rollouts are here once its file in rollouts/ is written."));
    this.filter(!first);
  }

  controls() {
    const field = (label, ...inputs) => el("label", {}, el("span", {}, label), ...inputs);
    const number = (name, label, most) => el("input", { name, type: "number", min: 0, max: most, step: most ? 0.05 : 1,
      placeholder: label.split(" ").at(-1), "aria-label": label, inputmode: "decimal" });
    const range = (label, name, most) => el("fieldset", {}, el("legend", {}, label),
      number(`${name}From`, `${label} from`, most), number(`${name}To`, `${label} to`, most));
    const select = (name, ...options) => el("select", { name }, options.map((text) => el("option", {}, text)));
    return [
      field("Search", el("input", { name: "text", type: "search", placeholder: "question or workflow", autocomplete: "off" })),
      field("Stage", select("stage", "any stage", "training", "evaluation")),
      range("Step", "step", null), field("Domain", select("domain")), field("Outcome", select("outcome")), range("Reward", "reward", 1),
      field("Order", select("sort", ...Object.keys(SORTS))),
      el("button", { type: "reset", class: "quiet" }, "Clear"),
    ];
  }

  /** Offer the values of a column that are there, the one chosen kept. */
  offer(name, values, any) {
    const select = this.form.elements[name], chosen = select.value;
    select.replaceChildren(el("option", { value: "" }, any), ...values.map((value) => el("option", { value }, value)));
    select.value = values.includes(chosen) ? chosen : "";
  }

  /** Set filters: a shape, or fields of the form by name; the others are cleared. */
  choose({ shape = null, ...fields }) {
    this.form.reset();
    for (const [name, value] of Object.entries(fields)) this.form.elements[name].value = value;
    setTimeout(() => {
      this.shape = shape;
      this.filter();
      byId("rollouts").scrollIntoView({ block: "start" });
      this.box.focus({ preventScroll: true });
    });
  }

  filter(keepPlace = false) {
    const { index } = this, active = this.shown[this.active];
    const keep = this.predicate();
    this.shown = [];
    for (let i = 0; i < index.size; i++) if (keep(i)) this.shown.push(i);
    this.shown.sort(SORTS[this.form.elements.sort.value](index));
    this.active = keepPlace ? Math.max(0, this.shown.indexOf(active)) : 0;
    if (!keepPlace) this.box.scrollTop = 0;
    this.count();
    this.draw();
  }

  predicate() {
    const { index } = this, { columns, step } = index;
    const value = (name) => this.form.elements[name].value;
    const bound = (name, none) => (value(name) === "" ? none : Number(value(name)));
    const [stepFrom, stepTo, rewardFrom, rewardTo] = [bound("stepFrom", 0), bound("stepTo", Infinity), bound("rewardFrom", -Infinity), bound("rewardTo", Infinity)];
    const stage = value("stage"), domain = value("domain"), outcome = value("outcome"), words = value("text").trim().toLowerCase();
    const scored = outcome === RIGHT || outcome === NOT_RIGHT;
    return (i) =>
      step[i] >= stepFrom && step[i] <= stepTo && columns.reward[i] >= rewardFrom && columns.reward[i] <= rewardTo
      && (stage.includes(" ") || index.isTraining(i) === (stage === "training"))
      && (!domain || index.domain(i) === domain)
      && (!outcome || (scored ? index.outcome(i) === "SCORED" && (columns.correctness[i] === 1) === (outcome === RIGHT) : index.outcome(i) === outcome))
      && (this.shape === null || index.shape(i) === this.shape)
      && (!words || index.question(i).toLowerCase().includes(words) || (index.shape(i) ?? "").toLowerCase().includes(words));
  }

  count() {
    const { size } = this.index, number = this.shown.length;
    const all = number === size ? counted(size, "rollout") : `${inWords.whole(number)} of ${counted(size, "rollout")}`;
    const shape = this.shape === null ? null : el("button", { type: "button", class: "chip", title: "Show all shapes",
      onclick: () => { this.shape = null; this.filter(); } }, `${this.shape} ×`);
    byId("count").replaceChildren(...[size ? all : "", shape].filter(Boolean));
  }

  draw() {
    if (!this.box.isConnected) return;
    const height = this.rowHeight();
    this.rows.style.blockSize = `${this.shown.length * height}px`;
    const from = Math.max(0, Math.floor(this.box.scrollTop / height) - SPARE_ROWS);
    const to = Math.min(this.shown.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / height) + SPARE_ROWS);
    const rows = [];
    for (let at = from; at < to; at++) rows.push(this.row(at, height));
    this.rows.replaceChildren(...(this.shown.length ? rows
      : [emptyState("No rollout is like that", "Widen the filters, or clear them.")]));
    this.box.setAttribute("aria-activedescendant", this.shown.length ? `row-${this.active}` : "");
  }

  rowHeight() {
    return parseInt(themed("--row"), 10);
  }

  row(at, height) {
    const i = this.shown[at], { index } = this, { reward, usd } = index.columns;
    const outcome = index.outcome(i), right = index.columns.correctness[i] === 1;
    const bar = el("span", { class: "meter", "aria-hidden": "true" }, el("span", {}));
    bar.firstChild.style.inlineSize = `${100 * Math.max(0, Math.min(1, reward[i]))}%`;
    const row = el("div", { class: "row", id: `row-${at}`, role: "option", "aria-selected": String(at === this.active), "aria-setsize": this.shown.length,
      "aria-posinset": at + 1, onclick: () => this.open(i) },
    el("span", { class: "when" }, `${index.isTraining(i) ? "" : "eval "}${index.step[i]}`),
    el("span", { class: "domain" }, index.domain(i)),
    el("span", { class: `outcome ${outcome !== "SCORED" ? "fault" : right ? "right" : ""}` }, outcome !== "SCORED" ? outcome : right ? "right" : "not right"),
    el("span", { class: "reward" }, inWords.fraction(reward[i]), bar),
    el("span", { class: "shape mono" }, index.shape(i) ?? "not a workflow"),
    el("span", { class: "question" }, index.question(i)),
    el("span", { class: "cost" }, usd[i] === null ? "" : inWords.usd(usd[i])));
    row.style.transform = `translateY(${at * height}px)`;
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight()) - 1), last = this.shown.length - 1;
    const to = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: last }[event.key];
    if (event.key === "Enter" && this.shown.length) this.open(this.shown[this.active]);
    else if (to !== undefined) this.activate(to);
    else return;
    event.preventDefault();
  }

  /** Make a rollout's row the active one, where it is in the list. */
  mark(i) {
    const at = this.shown.indexOf(i);
    if (at >= 0 && at !== this.active) this.activate(at);
  }

  /** Make a row the active one, in view; return its rollout. */
  activate(at) {
    this.active = Math.max(0, Math.min(this.shown.length - 1, at));
    const height = this.rowHeight(), top = this.active * height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + height - this.box.clientHeight;
    this.draw();
    return this.shown[this.active];
  }
}
