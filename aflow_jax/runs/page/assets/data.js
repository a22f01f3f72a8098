// Where the data comes from: blocks of this file, or the server that watches the run.

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** Return the bytes of a block of this file, or null where it has no such block. */
function block(name) {
  const node = byId(name);
  if (!node) return null;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(node.textContent.trim());
  const text = atob(node.textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

const saved = {
  live: false,
  async payload() {
    const text = await gunzip(block("payload"));
    byId("payload").remove();
    return JSON.parse(text);
  },
  rollouts: async (name) => block(name),
};

const watched = {
  live: true,
  tag: "",
  /** Return the payload, or null where nothing changed since the last one. */
  async payload() {
    const reply = await fetch("payload", { headers: this.tag ? { "If-None-Match": this.tag } : {}, cache: "no-store" });
    if (reply.status === 304) return null;
    if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
    this.tag = reply.headers.get("ETag");
    return JSON.parse(await gunzip(await reply.arrayBuffer()));
  },
  async rollouts(name) {
    const reply = await fetch(`rollouts/${encodeURIComponent(name)}`, { cache: "no-store" });
    return reply.ok ? reply.arrayBuffer() : null;
  },
};

const source = document.documentElement.dataset.source === "live" ? watched : saved;

const OPENED_FILES = 24;
const openedFiles = new Map();

/** Return the records of a file of rollouts as lines of JSON, or null where this page does not carry it. */
async function rolloutLines(name) {
  if (!openedFiles.has(name)) {
    const bytes = await source.rollouts(name);
    if (bytes === null) return null;
    openedFiles.set(name, (await gunzip(bytes)).split("\n"));
    if (openedFiles.size > OPENED_FILES) openedFiles.delete(openedFiles.keys().next().value);
  }
  return openedFiles.get(name);
}

/** Return the rollouts' index with the place of each in its file: `file[i]`, `line[i]`, `step[i]`, `stage[i]`. */
function indexed({ files, columns, dictionaries }) {
  const size = columns.outcome.length;
  const file = new Uint32Array(size), line = new Uint32Array(size), step = new Uint32Array(size);
  const first = [];
  let at = 0;
  files.forEach((entry, number) => {
    first.push(at);
    for (let own = 0; own < entry.count; own++, at++) {
      file[at] = number;
      line[at] = own;
      step[at] = entry.step;
    }
  });
  const named = (column) => (i) => {
    const code = columns[column][i];
    return code === null ? null : dictionaries[column][code];
  };
  return {
    size, files, first, file, line, step, columns, dictionaries,
    isTraining: (i) => files[file[i]].stage === "training",
    outcome: named("outcome"), domain: named("domain"), source: named("source"),
    shape: named("shape"), question: named("question"),
  };
}

/** Load plotly, which this page carries compressed, as a script; its hash is in the page's security policy. */
async function loadPlotly() {
  const text = await gunzip(block("plotly"));
  byId("plotly").remove();
  document.head.append(el("script", {}, text));
}
