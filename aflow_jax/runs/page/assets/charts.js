// Charts: a figure with its title, what it shows, its latest value and a legend; drawn by plotly once it comes near the view.

const MARKERS_BELOW = 16;
const charts = new Map();
let smoothing = 0.6;

const nearView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target.id);
    if (chart) chart.near = entry.isIntersecting;
  }
  drawCharts();
}, { rootMargin: "400px" });
addEventListener("beforeprint", () => {
  // A chart in a part that is closed is not printed, and has no size to be drawn in.
  for (const chart of charts.values()) if (chart.due && chart.plot?.offsetParent) plot(chart);
});

/**
 * Show a chart in its host, anew or with new data.
 *
 * spec: { id, title, note, unit, words, range, series, empty, headline }; each series is { name, x, y, color } and
 * perhaps bars, marks (an evaluation's dots), band (the spread around y), plain (never smoothed), labels (of x).
 */
function showChart(host, spec) {
  let chart = charts.get(spec.id);
  if (!chart) {
    chart = { hidden: new Set(), near: false, due: true, figure: el("figure", { class: "card chart" }) };
    charts.set(spec.id, chart);
    host.append(chart.figure);
  }
  chart.spec = spec;
  chart.due = true;
  const drawn = spec.series.filter((one) => one.y.some(isFigure));
  const plotted = chart.plot;
  chart.plot = drawn.length ? plotted ?? el("div", { class: "plot", id: spec.id, role: "img" }) : null;
  chart.plot?.setAttribute("aria-label", spoken(spec, drawn));
  chart.figure.replaceChildren(...present([caption(spec), legend(chart, drawn), chart.plot ?? emptyState("Nothing yet", spec.empty)]));
  if (plotted && !chart.plot) nearView.unobserve(plotted);
  if (chart.plot && !plotted) nearView.observe(chart.plot);
  drawCharts();
}

/** Draw every chart anew, as when the theme or the smoothing is another: now, or when it comes near the view. */
function redrawCharts() {
  for (const chart of charts.values()) chart.due = true;
  drawCharts();
}

let drawing = null;

/** Draw the charts that are due and near the view; those in view are first. Resolves when none is left. */
function drawCharts() {
  drawing ??= drawNearest().finally(() => { drawing = null; });
  return drawing;
}

async function drawNearest() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve)); // where the page answers its reader
    const due = window.Plotly ? [...charts.values()].filter((chart) => chart.due && chart.near && chart.plot) : [];
    if (!due.length) return;
    const distances = due.map((chart) => distanceFromView(chart.plot.getBoundingClientRect()));
    plot(due[distances.indexOf(Math.min(...distances))]);
  }
}

const distanceFromView = ({ top, bottom }) => Math.max(0, top - innerHeight, -bottom);

function caption({ title, note, headline }) {
  return el("figcaption", {},
    el("div", {}, el("h3", {}, title), el("p", { class: "note" }, note)),
    headline ? el("p", { class: "headline" }, headline.value,
      headline.change ? el("span", { class: `change ${headline.tone ?? ""}` }, headline.change) : null) : null);
}

function spoken({ title, unit, words }, drawn) {
  const ends = drawn.filter((one) => !one.bars)
    .map(({ name, x, y }) => `${name} ${words(y[0])} at step ${x[0]}, ${words(y.at(-1))} at step ${x.at(-1)}`);
  return `${title}${unit ? `, in ${unit}` : ""}, over steps. ${ends.join("; ")}`;
}

function legend(chart, drawn) {
  if (drawn.length < 2) return null;
  return el("ul", { class: "legend" }, drawn.map(({ name, color, marks }) => {
    const toggle = el("button", { type: "button", "aria-pressed": String(!chart.hidden.has(name)), onclick() {
      if (!chart.hidden.delete(name)) chart.hidden.add(name);
      toggle.setAttribute("aria-pressed", String(!chart.hidden.has(name)));
      plot(chart);
    } }, el("span", { class: marks ? "swatch dot" : "swatch" }), name);
    toggle.firstChild.style.background = `var(${color})`;
    return el("li", {}, toggle);
  }));
}

function plot(chart) {
  const { spec, plot: host, hidden } = chart;
  if (!window.Plotly || !host) return;
  chart.due = false;
  const shown = spec.series.filter((one) => one.y.some(isFigure) && !hidden.has(one.name));
  const traces = shown.flatMap((one) => (one.bars ? barTraces(one, spec) : lineTraces(one, spec, one === shown[0])));
  window.Plotly.react(host, traces, layout(spec), { displayModeBar: false, responsive: true, doubleClick: "reset" });
}

function lineTraces({ name, x, y, color, marks, band, plain }, { words }, isMain) {
  const ink = themed(color);
  const hover = { customdata: y.map(words), hovertemplate: `%{customdata} ${plotText(name)}<extra></extra>` };
  if (marks) {
    return [{ x, y, ...hover, mode: "lines+markers", line: { color: ink, width: 1.5, dash: "dot" },
      marker: { color: themed("--card"), size: 8, line: { color: ink, width: 2 } } }];
  }
  const few = x.length < MARKERS_BELOW;
  const even = plain || few || smoothing === 0;
  const level = even ? y : smoothed(y, smoothing);
  const traces = [];
  if (band) {
    const spread = even ? band : smoothed(band, smoothing);
    traces.push({ x: [...x, ...x.toReversed()], fill: "toself", fillcolor: translucent(ink, 0.12), mode: "none",
      y: [...level.map((v, i) => v + spread[i]), ...level.map((v, i) => v - spread[i]).toReversed()], hoverinfo: "skip" });
  }
  if (isMain && !even) traces.push({ x, y, mode: "lines", hoverinfo: "skip", opacity: 0.28, line: { color: ink, width: 1 } });
  traces.push({ x, y: level, ...hover, mode: few ? "lines+markers" : "lines", marker: { color: ink, size: 5 },
    line: { color: ink, width: isMain ? 2.25 : 1.75 } });
  return traces;
}

function barTraces({ name, x, y, color, labels, width }, { words }) {
  const text = y.map((value, at) => `${words(value)} ${plotText(name)}${labels ? `, ${labels[at]}` : ""}`);
  return [{ type: "bar", x, y, width, customdata: text, hovertemplate: "%{customdata}<extra></extra>",
    marker: { color: themed(color), line: { width: 0 } } }];
}

function layout({ range, ticks, unit, series: all }) {
  const touch = matchMedia("(pointer: coarse)").matches;
  const bars = all.some((one) => one.bars);
  const axis = { zeroline: false, fixedrange: touch, tickfont: { size: 11 }, tickcolor: themed("--line"), automargin: true };
  return {
    autosize: true, margin: { l: 8, r: 10, t: 8, b: 8 }, barmode: "stack", bargap: 0.12, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: touch ? false : "zoom",
    font: { family: themed("--sans"), size: 11, color: themed("--muted") },
    hovermode: bars ? "closest" : "x unified",
    hoverlabel: { bgcolor: themed("--card"), bordercolor: themed("--line"), font: { color: themed("--ink"), size: 12 } },
    xaxis: { ...axis, title: { text: "step", standoff: 6 }, showgrid: false, nticks: 7, tickformat: "d", hoverformat: "d",
      unifiedhovertitle: { text: "step %{x}" } },
    yaxis: { ...axis, title: unit ? { text: unit, standoff: 8 } : undefined, gridcolor: themed("--grid"), nticks: 5,
      tickformat: ticks, rangemode: "tozero", range },
  };
}

/** Names stand in plotly's labels, which read some markup. */
const plotText = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

function translucent(color, alpha) {
  const [r, g, b] = color.match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  return `rgba(${r},${g},${b},${alpha})`;
}
