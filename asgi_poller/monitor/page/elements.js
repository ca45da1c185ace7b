// Making and changing elements. Only what has changed is written, so that selections and focus stay.

const SVG = "http://www.w3.org/2000/svg";

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function by(id) {
  return document.getElementById(id);
}

/** Numbers that scripts can read, too. */
function figure(number, name = "") {
  return { number, name, text: whole(number) };
}

function rate(name, number) {
  return { number, name: `${name}_rate`, text: rateText(number) };
}

function fill(cell, content) {
  if (content instanceof Node) {
    if (cell.firstChild !== content) cell.replaceChildren(content);
  } else if (typeof content === "object" && content.number !== null) {
    let data = cell.firstElementChild;
    if (data?.tagName !== "DATA") {
      data = made("data", content.name ? { "data-name": content.name } : {});
      cell.replaceChildren(data);
    }
    data.value = content.number;
    say(data, content.text);
  } else {
    say(cell, typeof content === "object" ? NONE : content);
  }
}

/** Fills the body of the table `id`: a row is its cells, the first of them a heading. A figure goes
    to the right. `mark` may change the row. */
function fillTable(id, rows, { headings = 1, mark = () => {} } = {}) {
  const body = by(id).tBodies[0];
  const columns = by(id).tHead.rows[0].cells;
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [index, cells] of rows.entries()) {
    const row = body.rows[index] ?? body.insertRow();
    for (const [at, content] of cells.entries()) {
      if (row.cells.length <= at) {
        const cell = at < headings ? made("th", { scope: "row" }) : made("td");
        cell.className = columns[at].className;
        row.append(cell);
      }
      fill(row.cells[at], content);
    }
    mark(row, index);
  }
}

/** What can be scrolled can be focused, or a keyboard could not scroll it. */
function keepReachable() {
  for (const place of document.querySelectorAll(".scroll, .events")) {
    const isScrolled = place.scrollWidth > place.clientWidth || place.scrollHeight > place.clientHeight;
    if (isScrolled !== place.hasAttribute("tabindex")) {
      if (isScrolled) place.setAttribute("tabindex", "0");
      else place.removeAttribute("tabindex");
    }
  }
}
