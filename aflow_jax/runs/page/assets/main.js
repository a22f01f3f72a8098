// From data to page: once for a saved one, at every change for a watched one.

const POLL_MS = 2000;
const THEMES = ["auto", "light", "dark"];
const list = new RolloutList((i) => detail.open(i));
const detail = new RolloutDetail(list);

function show(payload) {
  const index = indexed(payload.rollouts);
  showHead(payload, index);
  showTiles(payload, index);
  showCurves(payload);
  showWorkflows(payload, index, (shape) => list.choose({ shape, stage: "training" }));
  showOutcomes(index, (outcome) => list.choose({ outcome }));
  showEvaluations(payload);
  list.show(index);
  byId("config").textContent = payload.config || "config.yaml is not there.";
  byId("faults").replaceChildren(...payload.faults.map((fault) => el("p", { class: "warning" }, fault)));
  return index;
}

function showHead({ run, settings, metrics }, index) {
  byId("name").textContent = run.name;
  document.title = `${run.name} · aflow_jax`;
  const done = (metrics.step ?? []).at(-1) ?? 0, model = settings.create_model ? "a small random model" : settings.base_model;
  const executor = settings.simulator ? "a simulated executor" : settings.aflow_executor_model;
  const facts = [model && executor ? `${model} writes, ${executor} executes` : null,
    settings.max_steps ? `step ${done} of ${settings.max_steps}` : `step ${done}`,
    settings.rollout_batch_size ? `${settings.rollout_batch_size} problems × ${settings.num_return_sequences_in_group} workflows a step` : null,
    settings.seed === undefined ? null : `seed ${settings.seed}`];
  byId("facts").textContent = facts.filter(Boolean).join(" · ");
  byId("state").textContent = source.live ? "live" : "";
  byId("state").className = source.live ? "live" : "";
  document.body.dataset.rollouts = index.size;
}

function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  redrawCharts();
}

function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a page opened from a file may have no storage
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // as above: the choice holds for this visit
  }
}

async function watch() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      const payload = await source.payload();
      byId("state").textContent = "live";
      byId("state").className = "live";
      if (payload) show(payload);
    } catch {
      byId("state").textContent = "not connected: the page's server has ended";
      byId("state").className = "lost";
    }
  }
}

byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  remember("theme", next);
  chooseTheme(next);
});
byId("smoothing").addEventListener("input", ({ target }) => {
  smoothing = Number(target.value);
  redrawCharts();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);

/** Note how far the page is, and when: for whoever measures or tests it. */
function reached(state) {
  document.body.dataset.ready = state;
  performance.mark(state);
}

async function start() {
  const chosen = remembered("theme");
  chooseTheme(THEMES.includes(chosen) ? chosen : "auto");
  const index = show(await source.payload());
  reached("list");
  const asked = rolloutInAddress(index);
  if (asked !== null) detail.open(asked);
  await loadPlotly();
  await drawCharts();
  reached("charts");
  if (source.live) await watch();
}

start().catch((error) => {
  byId("faults").replaceChildren(el("p", { class: "warning" }, `The page cannot be shown: ${error.message}`));
  throw error;
});
