// Figures in words, and the little arithmetic on them.

const isFigure = (value) => typeof value === "number" && Number.isFinite(value);

const formats = []; // by places: to make one takes longer than a thousand figures in it

function digits(value, places) {
  formats[places] ??= new Intl.NumberFormat("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return formats[places].format(value);
}

const inWords = {
  fraction: (value) => digits(value, 3),
  percent: (value) => `${digits(100 * value, Math.abs(value) < 0.0995 && value !== 0 ? 1 : 0)}%`,
  whole: (value) => digits(value, 0),
  small: (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : digits(value, 3)),
  tokens: (value) => (Math.abs(value) < 100 ? digits(value, value % 1 ? 1 : 0) : Math.abs(value) < 1e4 ? digits(value, 0)
    : Math.abs(value) < 1e6 ? `${digits(value / 1e3, 0)}k` : `${digits(value / 1e6, 1)}M`),
  usd: (value) => (value === 0 ? "$0" : Math.abs(value) < 0.01 ? `$${value.toPrecision(2)}` : `$${digits(value, 2)}`),
  gigabytes: (value) => `${digits(value, 1)} GB`,
  seconds(value) {
    if (value < 1) return `${digits(1000 * value, 0)} ms`;
    if (value < 100) return `${digits(value, 1)} s`;
    if (value < 5400) return `${digits(value / 60, 0)} min`;
    return `${digits(value / 3600, 1)} h`;
  },
};

/** Return a count with its noun. */
const counted = (number, noun) => `${inWords.whole(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Return the mean of the figures among the values; null where there is none. */
function mean(values) {
  const figures = values.filter(isFigure);
  return figures.length ? figures.reduce((sum, value) => sum + value, 0) / figures.length : null;
}

const total = (values) => values.filter(isFigure).reduce((sum, value) => sum + value, 0);

/** Return the steps and figures of a metric, without the steps that lack it. */
function series(metrics, name) {
  const x = [], y = [];
  (metrics[name] ?? []).forEach((value, at) => {
    if (!isFigure(value)) return;
    x.push(metrics.step[at]);
    y.push(value);
  });
  return { x, y };
}

/** Return the exponential moving average, each figure's weight (1 − s)·s^age, divided by the sum of weights. */
function smoothed(values, s) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = s * sum + (1 - s) * value;
    weight = s * weight + (1 - s);
    return sum / weight;
  });
}

const AVERAGED_STEPS = 10;

/** Return what a metric came to, and how far from where it began: means over up to ten steps at either end. */
function endpoints({ y }) {
  const window = Math.min(AVERAGED_STEPS, Math.max(1, Math.floor(y.length / 2)));
  const last = mean(y.slice(-window));
  return { last, change: y.length > 1 ? last - mean(y.slice(0, window)) : null, window };
}

const BINS = 40;

/** Return the bins of steps that shares over time are counted in: `of(step)`, their middles, their width in steps. */
function stepBins(steps) {
  const least = Math.min(...steps), most = Math.max(...steps);
  const width = Math.max(1, Math.ceil((most - least + 1) / BINS));
  const count = Math.floor((most - least) / width) + 1;
  return {
    of: (step) => Math.floor((step - least) / width),
    middles: Array.from({ length: count }, (_, at) => least + at * width + (width - 1) / 2),
    labels: Array.from({ length: count }, (_, at) => {
      const from = least + at * width, to = Math.min(most, from + width - 1);
      return from === to ? `step ${from}` : `steps ${from} to ${to}`;
    }),
    width,
    count,
  };
}
