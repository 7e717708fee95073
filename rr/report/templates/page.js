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

function saveSvg(svg, name) {
  const copy = svg.cloneNode(true);
  const style = getComputedStyle(svg);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  for (const [key, value] of Object.entries({ width: `${width}pt`, height: `${height}pt`, color: style.color,
    "font-family": "sans-serif" })) copy.setAttribute(key, value);
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  const text = new XMLSerializer().serializeToString(copy).replaceAll(/var\((--[\w-]+)\)/g, (_, variable) => style.getPropertyValue(variable).trim());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
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
  button.addEventListener("click", () => saveSvg(svg, links.querySelector("a").download.replace(/\.csv$/, "")));
  links.prepend(button);
}
addEventListener("resize", widenAll);
document.addEventListener("toggle", widenAll, true);
widenAll();
