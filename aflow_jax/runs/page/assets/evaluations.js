// Evaluations: those inside training, from its metrics, and those that `aflow_jax.evaluate` left in the run folder.

const LEVELS = [["eval_reward", "Reward", inWords.fraction], ["eval_accuracy", "Accuracy", inWords.percent]];
const COSTS = [["eval_workflow/parse_rate", "Parsed", inWords.percent], ["eval_completions/mean_length", "Tokens", inWords.tokens],
  ["eval_executor/calls", "Calls", inWords.whole], ["eval_executor/usd", "Cost", inWords.usd], ["eval_time", "Time", inWords.seconds]];

function showEvaluations({ metrics, evaluations, settings }) {
  const tables = [trainingEvaluations(metrics), ...evaluations.flatMap(evaluationResult)].filter(Boolean);
  const why = settings.eval_every === 0
    ? "eval_every is 0, so nothing is evaluated inside training. Run python -m aflow_jax.evaluate on a checkpoint."
    : `The first comes at step 0, the next every ${settings.eval_every ?? "eval_every"} steps, on the held-out problems.`;
  byId("evaluation-tables").replaceChildren(...(tables.length ? tables : [emptyState("No evaluation yet", why)]));
}

function trainingEvaluations(metrics) {
  const places = (metrics.step ?? []).map((_, at) => at).filter((at) => isFigure(metrics.eval_accuracy?.[at]));
  if (!places.length) return null;
  const kinds = Object.keys(metrics).filter((name) => name.startsWith("eval_accuracy/"))
    .map((name) => [name, name.slice("eval_accuracy/".length), inWords.percent]);
  const columns = [...LEVELS, ...kinds, ...COSTS].filter(([name]) => places.some((at) => isFigure(metrics[name]?.[at])));
  const cell = (name, words, at) => (isFigure(metrics[name]?.[at]) ? words(metrics[name][at]) : "–");
  const rows = places.map((at) => [`step ${metrics.step[at]}`, ...columns.map(([name, , words]) => cell(name, words, at))]);
  if (places.length > 1) {
    rows.push(["change", ...columns.map(([name, , words]) => {
      const first = metrics[name]?.[places[0]], last = metrics[name]?.[places.at(-1)];
      if (!isFigure(first) || !isFigure(last)) return "–";
      const { change, tone } = changeInWords(last - first, { words, good: COSTS.slice(1).some(([own]) => own === name) ? 0 : 1 });
      return el("span", { class: `change ${tone ?? ""}` }, change);
    })]);
  }
  return figureTable({ caption: "Held-out problems", note: "evaluated inside training", rows,
    columns: ["", ...columns.map(([, label]) => label)] });
}

/** A file in evaluations/ holds `tables`: each a title, perhaps a note, columns, and rows of texts and figures. */
function evaluationResult({ name, tables }) {
  if (!Array.isArray(tables)) return null;
  const cell = (value) => (value === null ? "–" : isFigure(value) ? inWords.small(value) : String(value));
  return tables.map(({ title, note, columns, rows }) =>
    figureTable({ caption: title ?? name, note, columns, rows: rows.map((row) => row.map(cell)) }));
}
