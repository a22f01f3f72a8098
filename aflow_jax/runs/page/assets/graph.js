// A workflow drawn as a graph, from top to bottom, with what its run did at each node.
//
// Every part of the graph is a box that is entered at the middle of its top and left at the middle of its bottom:
//
//   chain        parallel          branch            loop
//     A            ┌─┴─┐            check          ┌╌╌╌╌╌╌┐
//     │            A   B         fault┌┴┐pass      ╎ body ╎ up to n×
//     B            └─┬─┘              A  done      └╌╌╌╌╌╌┘

const NODE = { width: 136, height: 44 }, PILL = { width: 64, height: 24 };
const GAP = { x: 20, y: 24 }, FORK = 22, FRAME = 14, CAPTION = 18;

/**
 * Return the drawing of a graph.
 *
 * runs: the operator calls of each node by its key, see keyOf; open(call): shows one of them.
 */
function drawWorkflow(graph, runs, open) {
  const ink = { edges: [], frames: [], nodes: [] };
  const box = boxOf(graph, "", false);
  box.draw(ink, GAP.x, GAP.y / 2, runs, open);
  const width = box.width + 2 * GAP.x, height = box.height + GAP.y;
  const arrow = svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    svg("path", { d: "M0 0 8 4 0 8z", class: "arrow" }));
  return svg("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "The workflow as a graph" },
    svg("defs", {}, arrow), ink.frames, ink.edges, ink.nodes);
}

/** Return the key of the node at a place of the trace: the way to it, the rounds of loops left aside. */
function keyOf(graph, place) {
  let node = graph, key = "";
  for (const step of place) {
    if (!node || node.kind === "call") break;
    key += node.kind === "loop" ? "/*" : `/${step}`;
    node = { chain: () => node.stages[step], parallel: () => node.branches[step], loop: () => node.body,
      branch: () => [node.check, node.on_fault, node.on_pass][step] }[node.kind]();
  }
  return key;
}

function boxOf(node, key, inLoop) {
  switch (node?.kind) {
    case undefined: return pillBox(inLoop);
    case "call": return callBox(node, key);
    case "chain": return chainBox(node.stages.map((stage, at) => boxOf(stage, `${key}/${at}`, inLoop)));
    case "parallel": return forkBox(node.branches.map((branch, at) => boxOf(branch, `${key}/${at}`, false)), []);
    case "loop": return loopBox(boxOf(node.body, `${key}/*`, true), node.times);
    case "branch": return chainBox([callBox(node.check, `${key}/0`),
      forkBox([boxOf(node.on_fault, `${key}/1`, inLoop), boxOf(node.on_pass, `${key}/2`, inLoop)], ["fault", "pass"])], 0);
  }
  throw new Error(`a workflow has no node of kind ${node.kind}`);
}

function callBox({ operator, instruction }, key) {
  const { width, height } = NODE;
  const draw = (ink, x, y, runs, open) => {
    const calls = runs.get(key) ?? [], failed = calls.some(({ error }) => error);
    const what = !calls.length ? "not run"
      : failed ? "failed" : [calls.length > 1 ? `${calls.length}×` : null, inWords.seconds(total(calls.map(({ latency }) => latency)))].filter(Boolean).join(" · ");
    const state = !calls.length ? "idle" : failed ? "failed" : "ran";
    const show = () => open(calls[0]);
    ink.nodes.push(svg("g", { class: `node ${state}`, transform: `translate(${x} ${y})`, ...(calls.length ? { tabindex: 0, role: "button",
      onclick: show, onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(); } } } : {}),
      "aria-label": `${operator}, ${what}${instruction ? `, told: ${instruction}` : ""}` },
    svg("rect", { width, height, rx: 8 }),
    svg("text", { x: width / 2, y: 19, class: "name" }, operator),
    svg("text", { x: width / 2, y: 35, class: "what" }, what),
    svg("title", {}, instruction ? `${operator}: ${instruction}` : operator)));
  };
  return { width, height, leaves: true, draw };
}

/** `done`: in a loop it ends the loop, so that no edge goes on from it. */
function pillBox(inLoop) {
  const { width, height } = PILL;
  const draw = (ink, x, y) => ink.nodes.push(svg("g", { class: "pill", transform: `translate(${x} ${y})` },
    svg("rect", { width, height, rx: height / 2 }), svg("text", { x: width / 2, y: 16 }, inLoop ? "end loop" : "done")));
  return { width, height, leaves: !inLoop, draw };
}

function chainBox(boxes, gap = GAP.y) {
  const width = Math.max(...boxes.map((box) => box.width));
  const height = boxes.reduce((sum, box) => sum + box.height, 0) + gap * (boxes.length - 1);
  const draw = (ink, x, y, ...rest) => {
    boxes.forEach((box, at) => {
      box.draw(ink, x + (width - box.width) / 2, y, ...rest);
      y += box.height;
      if (at < boxes.length - 1 && gap) edge(ink, x + width / 2, y, x + width / 2, y + gap, true);
      y += gap;
    });
  };
  return { width, height, leaves: true, draw };
}

function forkBox(boxes, labels) {
  const width = boxes.reduce((sum, box) => sum + box.width, 0) + GAP.x * (boxes.length - 1);
  const tallest = Math.max(...boxes.map((box) => box.height)), head = FORK + (labels.length ? 10 : 0);
  const height = tallest + head + FORK;
  const draw = (ink, x, y, ...rest) => {
    const middle = x + width / 2;
    boxes.forEach((box, at) => {
      const axis = x + box.width / 2, top = y + head;
      edge(ink, middle, y, axis, top, true);
      if (labels[at]) ink.nodes.push(svg("text", { x: axis + (axis < middle ? -8 : 8), y: top - 8, class: "arm",
        "text-anchor": axis < middle ? "end" : "start" }, labels[at]));
      box.draw(ink, x, top, ...rest);
      if (box.leaves) edge(ink, axis, top + box.height, middle, y + height, false);
      x += box.width + GAP.x;
    });
  };
  return { width, height, leaves: boxes.some((box) => box.leaves), draw };
}

function loopBox(body, times) {
  const width = body.width + 2 * FRAME, height = body.height + 2 * FRAME + CAPTION;
  const draw = (ink, x, y, ...rest) => {
    ink.frames.push(svg("rect", { x, y, width, height, rx: 12, class: "loop" }),
      svg("text", { x: x + 12, y: y + height - 9, class: "arm" }, `up to ${times}×`));
    body.draw(ink, x + FRAME, y + FRAME, ...rest);
  };
  return { width, height, leaves: true, draw };
}

function edge(ink, x0, y0, x1, y1, arrow) {
  const bend = (y1 - y0) / 2;
  const d = x0 === x1 ? `M${x0} ${y0}V${y1}` : `M${x0} ${y0}C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}`;
  ink.edges.push(svg("path", { d, class: "edge", "marker-end": arrow ? "url(#arrow)" : null }));
}
