// Elements. Text goes into text nodes only: nothing that a model wrote is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...present(children));
  return node;
}

/** Return the children that are there, lists of them opened: null and false stand for none. */
function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Return a new HTML element; `on…` attributes are listeners, null ones are left out, texts become text nodes. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

const byId = (id) => document.getElementById(id);

/** Return the value of a CSS variable of the theme. */
function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Return a box that says why there is nothing to see. */
function emptyState(title, why) {
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, title), el("p", {}, why));
}

/** Return a table whose first column is text and whose others are figures, in a box that scrolls by itself. */
function figureTable({ caption, columns, rows, note }) {
  const head = el("tr", {}, columns.map((name, at) => el("th", { scope: "col", class: at ? "figure" : null }, name)));
  const body = rows.map((cells) =>
    el("tr", {}, cells.map((cell, at) =>
      at ? el("td", { class: "figure" }, cell) : el("th", { scope: "row" }, cell))));
  return el("div", { class: "card" },
    el("h3", {}, caption), note ? el("p", { class: "note" }, note) : null,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      el("table", {}, el("thead", {}, head), el("tbody", {}, body))));
}
