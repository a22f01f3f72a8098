// One rollout, opened: what was asked, the workflow drawn, each operator's call, the grade, and its group.

/** The dialog of a rollout; `list` is where the previous and the next one come from. */
class RolloutDetail {
  constructor(list) {
    this.list = list;
    this.dialog = byId("detail");
    this.title = el("h2", { id: "detail-title", tabindex: -1, autofocus: true });
    this.body = el("div", { class: "detail-body" });
    const button = (label, sign, onclick) => el("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick }, sign);
    this.dialog.append(el("header", {}, this.title, button("Previous rollout (k)", "‹", () => this.move(-1)),
      button("Next rollout (j)", "›", () => this.move(1)), button("Close (Esc)", "×", () => this.dialog.close())), this.body);
    this.dialog.addEventListener("close", () => this.closed());
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("keydown", (event) => {
      const scrolls = event.target.closest("pre, summary, .scroll");
      if (event.key === "j" || (event.key === "ArrowRight" && !scrolls)) this.move(1);
      if (event.key === "k" || (event.key === "ArrowLeft" && !scrolls)) this.move(-1);
    });
  }

  async open(i) {
    const { index } = this.list, file = index.files[index.file[i]];
    this.current = i;
    this.list.mark(i);
    history.replaceState(null, "", `#${hashOf(file.name, index.line[i])}`);
    let lines = null;
    try {
      lines = await rolloutLines(file.name);
    } catch (error) {
      this.fail(i, `The file rollouts/${file.name} cannot be read: ${error.message}`);
      return;
    }
    if (this.current !== i) return;
    if (lines === null) this.fail(i, `This page does not carry rollouts/${file.name}: the run's rollouts are too large for one file. It is in the run folder; --watch shows it.`);
    else this.fill(i, [detailBody(JSON.parse(lines[index.line[i]]), this.group(i))]);
  }

  fail(i, why) {
    this.fill(i, [emptyState("Not in this page", why)]);
  }

  fill(i, body) {
    const { index } = this.list, { body: place, dialog } = this;
    const hadFocus = place.contains(document.activeElement);
    this.title.textContent = `${index.isTraining(i) ? "Step" : "Evaluation at step"} ${index.step[i]}, rollout ${index.line[i] + 1}`;
    place.replaceChildren(...present(body));
    if (!dialog.open) dialog.showModal();
    else if (hadFocus) this.title.focus();
    place.scrollTop = 0;
    const drawing = place.querySelector(".drawing");
    if (drawing) drawing.scrollLeft = (drawing.scrollWidth - drawing.clientWidth) / 2;
  }

  move(by) {
    const { list } = this;
    if (list.shown.length) this.open(list.activate(list.active + by));
  }

  /** Return the rollouts of the same problem in the same file, which the baseline was taken over. */
  group(i) {
    const { index } = this.list, { question } = index.columns, members = [];
    let from = i, to = i;
    const same = (j) => j >= 0 && j < index.size && index.file[j] === index.file[i] && question[j] === question[i];
    while (same(from - 1)) from--;
    while (same(to + 1)) to++;
    for (let j = from; j <= to; j++) members.push(j);
    return members.length < 2 ? null : groupStrip(index, members, i, (j) => this.open(j));
  }

  closed() {
    this.current = null;
    history.replaceState(null, "", location.pathname + location.search);
    this.list.box.focus({ preventScroll: true });
  }
}

const hashOf = (file, line) => `${file.replace(".jsonl.gz", "")}/${line}`;

/** Return the rollout that the address names, or null. */
function rolloutInAddress(index) {
  const [name, line] = decodeURIComponent(location.hash.slice(1)).split("/");
  const file = index.files.findIndex((entry) => entry.name === `${name}.jsonl.gz`);
  return file < 0 || !(Number(line) < index.files[file].count) ? null : index.first[file] + Number(line);
}

function detailBody(record, group) {
  return [facts(record), group, asked(record), workflowPart(record), answerPart(record), tracePart(record), writtenPart(record)];
}

function facts(record) {
  const { problem, usage } = record;
  const list = [["Outcome", record.outcome], ["Reward", inWords.fraction(record.reward)], ["Advantage", signed(record.advantage)],
    ["Domain", `${problem.domain} · ${problem.source}`], ["Executor", `${counted(usage.calls, "call")} · ${inWords.tokens(usage.prompt_tokens + usage.completion_tokens)} tokens`],
    ["Cost", usage.usd === null ? "unknown" : inWords.usd(usage.usd)]];
  return el("dl", { class: "facts-row" }, list.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

const signed = (value) => `${value < 0 ? "−" : value > 0 ? "+" : ""}${digits(Math.abs(value), 2)}`;

function groupStrip(index, members, current, open) {
  const { reward, advantage } = index.columns;
  return part(`Its group of ${members.length}`, el("div", { class: "group" }, members.map((j) => {
    const bar = el("span", { class: "fill" });
    bar.style.blockSize = `${Math.max(3, 100 * reward[j])}%`;
    return el("button", { type: "button", "aria-current": j === current ? "true" : null, class: advantage[j] > 0 ? "up" : advantage[j] < 0 ? "down" : null,
      "aria-label": `Rollout ${index.line[j] + 1}: reward ${inWords.fraction(reward[j])}, advantage ${signed(advantage[j])}`, onclick: () => open(j) },
    el("span", { class: "column", "aria-hidden": "true" }, bar), el("span", {}, digits(reward[j], 2)), el("small", {}, signed(advantage[j])));
  })), "reward, and below it the advantage");
}

function asked(record) {
  return part("Problem", [text(record.question, "prose"), labelled("Right answer", record.gold)]);
}

function workflowPart(record) {
  if (!record.workflow) return part("Workflow", emptyState("Not a workflow", record.fault ?? record.error ?? "The text does not parse."));
  const runs = new Map();
  for (const call of record.trace) {
    const key = keyOf(record.graph ?? {}, call.place ?? []);
    runs.set(key, [...(runs.get(key) ?? []), call]);
  }
  const open = (call) => showCall(record.trace.indexOf(call));
  return part("Workflow", [
    record.graph ? el("div", { class: "scroll drawing", tabindex: 0, role: "region", "aria-label": "Workflow, drawn" }, drawWorkflow(record.graph, runs, open)) : null,
    text(record.workflow, "mono")]);
}

function showCall(at) {
  const call = byId(`call-${at}`);
  call.open = true;
  call.scrollIntoView({ block: "nearest" });
  call.querySelector("summary").focus({ preventScroll: true });
}

function answerPart(record) {
  const components = Object.entries(record.components).map(([name, value]) => {
    const bar = el("span", { class: "bar" });
    bar.style.inlineSize = `${100 * value}%`;
    return el("li", {}, el("span", {}, name), el("span", { class: "track", "aria-hidden": "true" }, bar), el("span", { class: "figure" }, inWords.fraction(value)));
  });
  return part("Answer and grade", [
    record.answer === null ? emptyState("No answer", record.error ?? record.fault ?? "The workflow gave none.") : text(record.answer),
    el("ul", { class: "counts" }, components), record.judged ? el("p", { class: "note" }, "The judge decided the correctness.") : null]);
}

function tracePart(record) {
  if (!record.trace.length) return part("Operator calls", emptyState("Nothing ran", record.workflow ? "The run ended before its first call." : "A text that is no workflow is never run."));
  return part("Operator calls", record.trace.map((call, at) => el("details", { class: "call", id: `call-${at}` },
    el("summary", {}, el("strong", {}, `${at + 1}. ${call.operator}`), call.error ? el("span", { class: "fault" }, "failed") : null,
      el("span", { class: "note" }, callFacts(call))),
    call.instruction ? labelled("Instruction", call.instruction) : null,
    Object.entries(call.inputs).map(([name, value]) => labelled(`Input: ${name}`, Array.isArray(value) ? value.map((one, at) => `${at + 1}. ${one}`).join("\n") : value)),
    Object.entries(call.outputs).map(([name, value]) => labelled(`Output: ${name}`, value)),
    call.solution_after !== call.solution_before ? labelled("Solution after it", call.solution_after) : null,
    call.error ? labelled("Error", call.error) : null)), "in the order of the workflow");
}

function callFacts(call) {
  return [counted(call.calls, "call"), `${inWords.tokens(call.prompt_tokens)} + ${inWords.tokens(call.completion_tokens)} tokens`,
    call.usd === null ? null : inWords.usd(call.usd), inWords.seconds(call.latency)].filter(Boolean).join(" · ");
}

function writtenPart(record) {
  return part("What the policy wrote", [text(record.text), el("p", { class: "note" }, `${inWords.whole(record.tokens)} tokens${record.finish_reason === "length" ? ", cut by the length limit" : ""}`),
    record.prompt ? el("details", { class: "call" }, el("summary", {}, el("strong", {}, "Its prompt")), text(record.prompt)) : null]);
}

function part(title, content, note) {
  return el("section", {}, el("h3", {}, title, note ? el("span", { class: "note" }, ` ${note}`) : null), content);
}

const text = (content, kind = "") => el("pre", { class: kind, tabindex: 0 }, content);

const labelled = (label, content) => el("div", { class: "labelled" }, el("h4", {}, label), text(content));
