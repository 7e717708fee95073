// Sort a table with class `sortable` when a column heading is clicked, or when Enter is pressed on it. The first click
// sorts numbers from the largest to the smallest and text from A to Z, the second click reverses the order, and the
// third click restores the original order. Cells without a number stay last. Without JavaScript, the headings are plain
// text.
const parseNumber = (text) => parseFloat(text.replaceAll(",", "").replaceAll("−", "-"));

function cellValue(cell, isNumeric) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  return isNumeric ? parseNumber(text) : text;
}

function sortRows(body, originalRows, column, direction, isNumeric) {
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [cellValue(a.cells[column], isNumeric), cellValue(b.cells[column], isNumeric)];
    if (!isNumeric) return direction * collator.compare(x, y);
    return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : direction * (x - y));
  };
  body.append(...(direction ? [...originalRows].sort(compare) : originalRows));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const originalRows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  if (originalRows.length < 2) continue;
  headings.forEach((heading, column) => {
    const isNumeric = heading.classList.contains("number");
    const orders = isNumeric ? ["descending", "ascending"] : ["ascending", "descending"];
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = orders[orders.indexOf(heading.getAttribute("aria-sort")) + 1];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) heading.setAttribute("aria-sort", order);
      sortRows(body, originalRows, column, { ascending: 1, descending: -1 }[order] ?? 0, isNumeric);
    });
  });
}
