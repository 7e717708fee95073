// Let wide tables also use the left margin of the page, and add a button to each plot that saves it as an SVG file.
const MARGIN = 24;

function widen(region) {
  region.style.marginLeft = "";
  const hidden = region.scrollWidth - region.clientWidth;
  const free = region.getBoundingClientRect().left - MARGIN;
  if (hidden <= 1 || free <= 0) return;
  const shift = Math.min(hidden, free);
  region.style.marginLeft = `${-shift}px`;
  region.style.maxWidth = `${region.clientWidth + shift}px`;
}

function widenAll() {
  for (const region of document.querySelectorAll(".scroll")) {
    region.style.maxWidth = "";
    if (region.clientWidth) widen(region);
  }
}

const DASHES = ["", "9 3.6", "2.2 2.9", "10.8 3.6 2.2 3.6"]; // LINE_STYLES in plots/curves.py, for lines of 1.8 pt

function addElement(svg, name, attributes, text = "") {
  const element = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  svg.append(element);
}

// Return a plot as an SVG file with its title above it and its legend below it. One legend can serve several plots.
function exportSvg(panel) {
  const svg = panel.querySelector("svg");
  const style = getComputedStyle(svg);
  const { fontFamily } = getComputedStyle(svg.querySelector("text"));
  const [, , , plotHeight] = svg.getAttribute("viewBox").split(" ").map(Number);
  const copy = svg.cloneNode(true);
  for (const [key, value] of Object.entries({ color: style.color, fill: "currentColor", "font-size": 9 })) {
    copy.setAttribute(key, value);
  }
  addElement(copy, "text", { x: 4, y: -8, "font-weight": "bold" }, panel.querySelector(".panel-title").textContent);
  const shared = panel.parentElement.previousElementSibling;
  const legend = panel.querySelector(".legend") ?? (shared?.matches(".legend") ? shared : null);
  [...(legend?.children ?? [])].forEach((entry, index) => {
    const y = plotHeight + 10 + 13 * index;
    addElement(copy, "path", { d: `M4 ${y}H30`, stroke: entry.style.getPropertyValue("--mark"), "stroke-width": 1.8,
      "stroke-dasharray": DASHES[Number(entry.className.replace("style-", ""))] });
    addElement(copy, "text", { x: 36, y: y + 3 }, entry.textContent);
  });
  for (const text of copy.querySelectorAll("text")) text.style.fontFamily = fontFamily;
  panel.append(copy); // only what is in the page has a size
  const box = copy.getBBox();
  copy.remove();
  const [left, top, width, height] = [box.x - 4, box.y - 4, box.width + 8, box.height + 8];
  copy.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
  copy.setAttribute("width", `${width}pt`);
  copy.setAttribute("height", `${height}pt`);
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  const text = new XMLSerializer().serializeToString(copy);
  return text.replaceAll(/var\((--[\w-]+)\)/g, (_, variable) => style.getPropertyValue(variable).trim());
}

function saveSvg(panel, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exportSvg(panel)], { type: "image/svg+xml" }));
  link.download = `${name}.svg`;
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const panel of document.querySelectorAll(".panel")) {
  const [svg, links] = [panel.querySelector("svg"), panel.querySelector(".downloads")];
  if (!svg || !links) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "SVG";
  button.addEventListener("click", () => saveSvg(panel, links.querySelector("a").download.replace(/\.csv$/, "")));
  links.prepend(button);
}
addEventListener("resize", widenAll);
document.addEventListener("toggle", widenAll, true);
widenAll();
