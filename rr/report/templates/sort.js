// Tables marked `sortable` are sorted by a click on a heading, or by Enter on it. Figures: the largest first, then the
// smallest; words: A to Z, then Z to A; a third click restores the order of the report. Cells without a figure stay
// last. Without scripts the headings are plain text, and nothing is missing.
const figure = (text) => parseFloat(text.replaceAll(",", "").replace("−", "-"));

function value(cell, numeric) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  return numeric ? figure(text) : text;
}

function sort(body, original, column, direction, numeric) {
  const words = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [value(a.cells[column], numeric), value(b.cells[column], numeric)];
    if (!numeric) return direction * words.compare(x, y);
    return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : direction * (x - y));
  };
  body.append(...(direction ? [...original].sort(compare) : original));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  if (original.length < 2) continue;
  headings.forEach((heading, column) => {
    const numeric = heading.classList.contains("number");
    const turns = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const turn = turns[turns.indexOf(heading.getAttribute("aria-sort")) + 1];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (turn) heading.setAttribute("aria-sort", turn);
      sort(body, original, column, { ascending: 1, descending: -1 }[turn] ?? 0, numeric);
    });
  });
}
