// What the page says above the rollouts: key figures, curves, workflows, outcomes.

const DOMAIN_COLORS = { math: "--blue", code: "--orange", qa: "--green" };
const CYCLE = ["--blue", "--orange", "--green", "--violet", "--red", "--teal", "--ochre", "--pink", "--slate", "--lime"];

const cost = "The executor's price is not known: add `price` to its entry in the LLM configuration.";

/** The curves: metrics by name, with what each is called in its chart. Those after `further` stand under More curves. */
const CURVES = [
  { id: "reward", title: "Reward", note: "mean of a step's rollouts; band: their standard deviation", ticks: ".1f",
    words: inWords.fraction, range: [0, 1.02], lines: { reward: "reward" }, band: "reward_std", heldOut: "eval_reward", good: 1 },
  { id: "accuracy", title: "Accuracy", note: "share of rollouts whose answer is right", ticks: ".0%",
    words: inWords.percent, range: [0, 1.03], domains: true, heldOut: "eval_accuracy", good: 1 },
  { id: "parse_rate", title: "Workflows that parse", note: "share of answers that are a workflow; distinct ones in a group",
    ticks: ".0%", words: inWords.percent, range: [0, 1.03], good: 1,
    lines: { "workflow/parse_rate": "parsed", "workflow/unique_ratio": "distinct" } },
  { id: "kl", title: "KL to the base model", note: "k3 estimate", unit: "nats a token", words: inWords.small, lines: { kl: "KL" },
    empty: "No KL was measured: kl_loss_coef is 0, so the base model is not asked." },
  { id: "entropy", title: "Entropy", note: "of the policy's next token", unit: "nats a token", words: inWords.small,
    lines: { entropy: "entropy" } },
  { id: "length", title: "Answer length", note: "mean tokens of the policy's answers", unit: "tokens", words: inWords.tokens,
    lines: { "completions/mean_length": "tokens" } },
  { id: "usd", title: "Executor cost", note: "spent on LLM calls by each step", unit: "US dollars", words: inWords.usd,
    lines: { "executor/usd": "a step" }, sum: true, empty: cost },
  { id: "time", title: "Time of a step", note: "executing overlaps sampling; waiting is what is left of it", unit: "seconds",
    words: inWords.seconds, lines: { step_time: "whole step", "time/sample": "sample", "time/execute": "execute",
      "time/update": "update", "time/wait": "wait" } },
  { id: "tied", further: true, title: "Groups whose rewards tie", note: "only tie-breaks are learnt from them", ticks: ".0%",
    words: inWords.percent, range: [0, 1.03], lines: { frac_reward_zero_std: "tied" } },
  { id: "components", further: true, title: "Reward components", note: "each in 0 to 1, before its weight", ticks: ".1f",
    words: inWords.fraction, range: [0, 1.02], family: /^rewards\/(.+)\/mean$/ },
  { id: "sources", further: true, title: "Accuracy by source", note: "share of rollouts whose answer is right", ticks: ".0%",
    words: inWords.percent, range: [0, 1.03], sources: true },
  { id: "grad_norm", further: true, title: "Gradient norm", note: "before clipping", words: inWords.small,
    lines: { grad_norm: "norm" } },
  { id: "learning_rate", further: true, title: "Learning rate", note: "warmup, then cosine", words: inWords.small, ticks: ".1e",
    lines: { learning_rate: "learning rate" }, plain: true },
  { id: "mismatch", further: true, title: "Sampler and learner", note: "difference of a token's log-probability", unit: "nats",
    words: inWords.small, lines: { "sampling/sampling_logp_difference/mean": "mean", "sampling/sampling_logp_difference/max": "largest" } },
  { id: "clip", further: true, title: "Clipped ratios", note: "share of tokens", ticks: ".1%", words: inWords.percent,
    lines: { "clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above" } },
  { id: "truncated", further: true, title: "Answers cut by the length limit", note: "share of answers", ticks: ".0%",
    words: inWords.percent, lines: { "completions/clipped_ratio": "cut" } },
  { id: "latency", further: true, title: "Executor latency", note: "of an LLM call", unit: "seconds", words: inWords.seconds,
    lines: { "executor/latency_p50": "median", "executor/latency_p95": "95th percentile" } },
  { id: "calls", further: true, title: "Executor calls", note: "by each step", words: inWords.tokens,
    lines: { "executor/calls": "calls" } },
  { id: "memory", further: true, title: "Peak memory", note: "of the device so far; of the process on a CPU", unit: "GB",
    words: inWords.gigabytes, lines: { "memory/peak_gb": "peak" }, plain: true },
];

function showCurves({ metrics, settings }) {
  for (const curve of CURVES) {
    showChart(byId(curve.further ? "further-curves" : "curves"), {
      ...curve,
      empty: curve.empty ?? "No step has this figure yet.",
      headline: headline(curve, metrics),
      series: curveSeries(curve, metrics, settings),
    });
  }
}

function curveSeries(curve, metrics) {
  const names = curve.lines ?? (curve.domains ? { accuracy: "all", ...domainsOf(metrics) } : familyOf(curve, metrics));
  const lines = Object.entries(names).map(([name, label], at) => ({
    name: label, plain: curve.plain, ...series(metrics, name),
    color: curve.domains ? DOMAIN_COLORS[label] ?? (at ? CYCLE[at % CYCLE.length] : "--ink") : CYCLE[at % CYCLE.length],
    band: curve.band && at === 0 ? bandOf(metrics, name, curve.band) : null,
  }));
  if (curve.heldOut) lines.push({ name: "held out", marks: true, color: "--violet", ...series(metrics, curve.heldOut) });
  return lines;
}

const domainsOf = (metrics) => Object.fromEntries(
  Object.keys(DOMAIN_COLORS).filter((domain) => metrics[`accuracy/${domain}`]).map((domain) => [`accuracy/${domain}`, domain]));

function familyOf({ family, sources }, metrics) {
  const pattern = sources ? /^accuracy\/(.+)$/ : family;
  const found = Object.keys(metrics).map((name) => [name, pattern.exec(name)?.[1]]);
  return Object.fromEntries(found.filter(([, label]) => label && !(sources && label in DOMAIN_COLORS)));
}

function bandOf(metrics, name, spread) {
  if (!metrics[spread]) return null;
  return metrics[spread].filter((_, at) => isFigure(metrics[name][at])).map((value) => value ?? 0);
}

function headline(curve, metrics) {
  const name = curve.domains ? "accuracy" : Object.keys(curve.lines ?? {})[0];
  const figures = series(metrics, name);
  if (!figures.y.length) return null;
  if (curve.sum) return { value: inWords.usd(total(figures.y)), change: "in all" };
  const { last, change } = endpoints(figures);
  return { value: curve.words(last), ...changeInWords(change, curve) };
}

function changeInWords(change, { words, good }) {
  if (change === null) return {};
  const size = words(Math.abs(change)), none = size === words(0);
  const tone = none || !good ? "" : change * good > 0 ? "better" : "worse";
  return { change: none ? "no change" : `${change > 0 ? "+" : "−"}${words === inWords.percent ? `${size.slice(0, -1)} pts` : size}`, tone };
}

function showTiles({ metrics, settings }, index) {
  const held = series(metrics, "eval_accuracy"), tiles = [];
  const ends = (name) => endpoints(series(metrics, name));
  if (held.y.length) {
    const change = held.y.length > 1 ? held.y.at(-1) - held.y[0] : null;
    tiles.push(["Held-out accuracy", inWords.percent(held.y.at(-1)), `at step ${held.x.at(-1)}`,
      changeInWords(change, { words: inWords.percent, good: 1 })]);
  }
  for (const [label, name, words] of [["Training accuracy", "accuracy", inWords.percent], ["Reward", "reward", inWords.fraction],
    ["Workflows that parse", "workflow/parse_rate", inWords.percent]]) {
    const { last, change, window } = ends(name);
    if (last !== null) tiles.push([label, words(last), window > 1 ? `last ${window} steps` : "last step",
      changeInWords(change, { words, good: 1 })]);
  }
  const steps = series(metrics, "step_time"), spent = [...(metrics["executor/usd"] ?? []), ...(metrics["eval_executor/usd"] ?? [])];
  const calls = total(metrics["executor/calls"] ?? []) + total(metrics["eval_executor/calls"] ?? []);
  if (index.size) tiles.push(["Rollouts", inWords.whole(index.size), counted(index.dictionaries.shape.length, "workflow shape")]);
  if (spent.some(isFigure)) tiles.push(["Executor cost", inWords.usd(total(spent)), counted(calls, "call")]);
  if (steps.y.length) tiles.push(["Time", inWords.seconds(total(steps.y) + total(metrics.eval_time ?? [])),
    `${inWords.seconds(mean(steps.y))} a step`]);
  byId("tiles").replaceChildren(...tiles.map(([label, value, note, change]) => el("div", { class: "tile" },
    el("dt", {}, label), el("dd", { class: "value" }, value, change?.change ? el("span", { class: `change ${change.tone}` }, change.change) : null),
    el("dd", { class: "note" }, note))));
  if (!tiles.length) {
    byId("tiles").replaceChildren(emptyState("No step is complete yet", settings.warm_start
      ? "The figures come with the first step, after the warm start." : "The figures come with the first step."));
  }
}

const SHAPES_SHOWN = 6;

/** Return the shapes of training workflows, the most frequent first, with what became of them. */
function shapeStatistics(index) {
  const found = new Map();
  const { reward, correctness, usd } = index.columns;
  for (let i = 0; i < index.size; i++) {
    const shape = index.shape(i);
    if (shape === null || !index.isTraining(i)) continue;
    if (!found.has(shape)) found.set(shape, { shape, count: 0, reward: 0, right: 0, usd: 0, first: index.step[i], last: 0 });
    const own = found.get(shape);
    own.count++;
    own.reward += reward[i];
    own.right += correctness[i] === 1;
    own.usd = own.usd === null || usd[i] === null ? null : own.usd + usd[i];
    own.last = Math.max(own.last, index.step[i]);
  }
  return [...found.values()].sort((a, b) => b.count - a.count);
}

function showWorkflows({ metrics }, index, openShape) {
  const names = Object.keys(metrics).filter((name) => name.startsWith("workflow/operators/"));
  const used = names.map((name) => ({ name, ...series(metrics, name) })).sort((a, b) => total(b.y) - total(a.y));
  showChart(byId("workflow-charts"), { id: "operators", title: "Operators in a workflow", unit: "times named", ticks: "",
    note: "mean over the workflows of a step", words: (value) => digits(value, 2), empty: "No workflow has parsed yet.",
    series: used.map(({ name, x, y }, at) => ({ name: name.slice("workflow/operators/".length), x, y, color: CYCLE[at % CYCLE.length] })) });
  const statistics = shapeStatistics(index), top = statistics.slice(0, SHAPES_SHOWN).map(({ shape }) => shape);
  const kinds = [...top, "others", "no workflow"];
  const kindOf = (i) => (index.shape(i) === null ? "no workflow" : top.includes(index.shape(i)) ? index.shape(i) : "others");
  showChart(byId("workflow-charts"), { id: "shapes-over-time", title: "Workflow shapes", ticks: ".0%", range: [0, 1],
    note: "share of the training rollouts, instructions left aside", words: inWords.percent,
    empty: "No rollouts are recorded yet: rollouts/ is written after each step.",
    series: sharesOverTime(index, kinds, kindOf, [...CYCLE.slice(0, top.length), "--slate", "--void"]) });
  showShapeTable(statistics.slice(0, 12), total(statistics.map(({ count }) => count)), openShape);
}

/** Return stacked bars: in each bin of steps the share of training rollouts of each kind. */
function sharesOverTime(index, kinds, kindOf, colors) {
  const chosen = [];
  for (let i = 0; i < index.size; i++) if (index.isTraining(i)) chosen.push(i);
  if (!chosen.length) return [];
  const bins = stepBins([index.step[chosen[0]], index.step[chosen.at(-1)]]);
  const counts = kinds.map(() => new Float64Array(bins.count)), all = new Float64Array(bins.count);
  for (const i of chosen) {
    const bin = bins.of(index.step[i]);
    counts[kinds.indexOf(kindOf(i))][bin]++;
    all[bin]++;
  }
  return kinds.map((name, at) => ({ name, bars: true, color: colors[at], x: bins.middles, labels: bins.labels,
    width: bins.width * 0.9, y: Array.from(counts[at], (count, bin) => (all[bin] ? count / all[bin] : null)) }))
    .filter((one) => one.y.some((share) => share > 0));
}

function showShapeTable(statistics, all, openShape) {
  const rows = statistics.map(({ shape, count, reward, right, usd, first, last }) => [
    el("button", { type: "button", class: "link mono", onclick: () => openShape(shape) }, shape),
    inWords.whole(count), inWords.percent(count / all), inWords.fraction(reward / count), inWords.percent(right / count),
    usd === null ? "unknown" : inWords.usd(usd / count), `${first} – ${last}`]);
  byId("shapes").replaceChildren(rows.length ? figureTable({
    caption: "The most frequent shapes", note: "over all training rollouts; choose one to see its rollouts",
    columns: ["Shape", "Rollouts", "Share", "Reward", "Accuracy", "Cost each", "Steps"], rows }) : "");
}

const RIGHT = "answered, right", NOT_RIGHT = "answered, not right";
const POLICY_COLORS = ["--orange", "--ochre", "--red", "--pink", "--violet", "--blue", "--teal"];
const VOID = new Set(["LLM_UNAVAILABLE", "RATE_LIMITED", "SANDBOX_UNAVAILABLE", "JUDGE_UNAVAILABLE"]);

function showOutcomes(index, openOutcome) {
  const kindOf = (i) => (index.outcome(i) !== "SCORED" ? index.outcome(i) : index.columns.correctness[i] === 1 ? RIGHT : NOT_RIGHT);
  const faults = index.dictionaries.outcome.filter((name) => name !== "SCORED").sort((a, b) => VOID.has(a) - VOID.has(b));
  const kinds = [RIGHT, NOT_RIGHT, ...faults];
  const colors = ["--green", "--slate", ...faults.map((name, at) => (VOID.has(name) ? "--void" : POLICY_COLORS[at % POLICY_COLORS.length]))];
  const empty = "No rollouts are recorded yet: rollouts/ is written after each step.";
  showChart(byId("outcome-chart"), { id: "outcomes-over-time", title: "How rollouts end", ticks: ".0%", range: [0, 1], empty,
    note: "share of the training rollouts", words: inWords.percent, series: sharesOverTime(index, kinds, kindOf, colors) });
  const counts = new Map(kinds.map((kind) => [kind, 0]));
  for (let i = 0; i < index.size; i++) counts.set(kindOf(i), counts.get(kindOf(i)) + 1);
  const bars = kinds.filter((kind) => counts.get(kind)).map((kind) => {
    const share = counts.get(kind) / index.size, bar = el("span", { class: "bar" });
    bar.style.inlineSize = `${100 * share}%`;
    bar.style.background = `var(${colors[kinds.indexOf(kind)]})`;
    return el("li", {}, el("button", { type: "button", class: "link", onclick: () => openOutcome(kind) }, kind),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "figure" }, `${inWords.whole(counts.get(kind))} · ${inWords.percent(share)}`));
  });
  byId("outcome-counts").replaceChildren(el("h3", {}, "Counts"), el("p", { class: "note" }, "all rollouts, evaluations included"),
    bars.length ? el("ul", { class: "counts" }, bars) : emptyState("Nothing yet", empty));
}
