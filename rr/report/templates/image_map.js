// Draw interactive maps of images on a canvas. Each figure with class `image-map` contains the data of a map as JSON (see
// rr/report/plots/image_map.py), and this script adds everything else to it.
(() => {
  const NO_CLASS = 65535, NUM_COLORS = 20, MAX_SCALE = 60, MARGIN = 14, HIT_RADIUS = 18;
  const MAX_IMAGES_IN_VIEW = 350; // with fewer points in view, their images are drawn instead of dots

  const decode = (text, type = Uint16Array) => new type(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);
  const shapes = [
    (path, x, y, r) => { path.moveTo(x + r, y); path.arc(x, y, r, 0, 7); },
    (path, x, y, r) => path.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r),
    (path, x, y, r) => { path.moveTo(x, y - 1.2 * r); path.lineTo(x + 1.1 * r, y + 0.8 * r); path.lineTo(x - 1.1 * r, y + 0.8 * r); path.closePath(); },
    (path, x, y, r) => { path.moveTo(x, y - 1.3 * r); path.lineTo(x + 1.3 * r, y); path.lineTo(x, y + 1.3 * r); path.lineTo(x - 1.3 * r, y); path.closePath(); },
  ];
  const element = (tag, properties = {}, ...children) => {
    const { data, ...rest } = properties;
    const made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data);
    made.append(...children);
    return made;
  };

  const sprites = new Map();
  function loadSprite(id) {
    if (!sprites.has(id)) {
      const sprite = JSON.parse(document.getElementById(id).textContent);
      sprite.image = new Image();
      sprite.loaded = new Promise((done) => { sprite.image.onload = done; });
      sprite.image.src = sprite.uri;
      sprites.set(id, sprite);
    }
    return sprites.get(id);
  }

  function startMap(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const labels = decode(data.labels), count = labels.length, sprite = loadSprite(data.sprite);
    const layers = data.layers.map((layer) => ({ title: layer.title, points: decode(layer.points),
      neighbors: decode(layer.neighbors, count > 65536 ? Uint32Array : Uint16Array),
      predictions: layer.predictions ? decode(layer.predictions) : null }));
    const hasPredictions = layers.some((layer) => layer.predictions);
    const className = (label) => (label === NO_CLASS ? "unknown" : data.classes[label]);
    let layer = layers[0], transform = d3.zoomIdentity, hovered = null, selected = null, pointer = null;
    let width = 0, height = 0, size = 1, tree = null, visible = [], colors = {}, isDrawn = true;

    // Controls, canvas and details.
    const layerSelect = element("select", { ariaLabel: "Method" }, ...layers.map((one, i) => element("option", { value: i }, one.title)));
    const totals = new Map();
    labels.forEach((label) => totals.set(label, (totals.get(label) ?? 0) + 1));
    const classSelect = element("select", { ariaLabel: "Class" }, element("option", { value: "" }, "all classes"),
      ...[...totals.keys()].sort((a, b) => a - b).map((label) => element("option", { value: label }, `${className(label)} (${totals.get(label)})`)));
    const errorSelect = element("select", { ariaLabel: "Prediction" }, ...["all predictions", "errors only", "correct only"].map((text, i) => element("option", { value: i }, text)));
    const button = (text, label, action) => element("button", { type: "button", ariaLabel: label, title: label, onclick: action }, text);
    const canvas = element("canvas", { tabIndex: 0, role: "application", ariaLabel: `Map of ${count} images. ` +
      "Arrow keys move to the next image in that direction, plus and minus zoom in and out, Shift plus an arrow key moves the map, 0 shows the whole map." });
    const details = element("div", { className: "map-details", ariaLive: "polite" });
    const status = element("span", { className: "map-count" });
    const toolbar = element("div", { className: "map-toolbar" });
    if (layers.length > 1) toolbar.append(layerSelect);
    if (totals.size > 1) toolbar.append(classSelect);
    if (hasPredictions) toolbar.append(errorSelect);
    const download = () => canvas.toBlob((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${figure.id}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
    toolbar.append(button("+", "Zoom in", () => zoomBy(1.6)), button("−", "Zoom out", () => zoomBy(1 / 1.6)),
      button("Whole map", "Show the whole map", () => moveTo(d3.zoomIdentity)), button("Save PNG", "Save the map as shown", download), status);
    const legend = element("ul", { className: "map-legend" });
    const view = element("div", { className: "map-view" }, canvas);
    figure.prepend(toolbar, legend, element("div", { className: "map-body" }, view, details));

    const context = canvas.getContext("2d");
    const x = (i) => transform.applyX(MARGIN + (width - 2 * MARGIN - size) / 2 + layer.points[2 * i] / 65535 * size);
    const y = (i) => transform.applyY(MARGIN + (height - 2 * MARGIN - size) / 2 + (1 - layer.points[2 * i + 1] / 65535) * size);
    const isKnown = (i) => layer.predictions && layer.predictions[i] !== NO_CLASS && labels[i] !== NO_CLASS;
    const isError = (i) => isKnown(i) && layer.predictions[i] !== labels[i];
    const drawTile = (target, i, left, top, side) => target.drawImage(sprite.image, (i % sprite.columns) * sprite.tile,
      Math.floor(i / sprite.columns) * sprite.tile, sprite.tile, sprite.tile, left, top, side, side);

    function readColors() {
      const style = getComputedStyle(figure);
      colors = { ink: style.getPropertyValue("--ink"), paper: style.getPropertyValue("--paper"), rule: style.getPropertyValue("--muted"),
        series: Array.from({ length: NUM_COLORS }, (_, i) => style.getPropertyValue(`--series-${i + 1}`)) };
      redraw();
    }
    const colorOf = (label) => colors.series[label] ?? colors.rule;

    function applyFilter() {
      const label = classSelect.value, wanted = errorSelect.value;
      visible = [];
      for (let i = 0; i < count; i++) {
        if (label !== "" && labels[i] !== Number(label)) continue;
        if (wanted !== "0" && hasPredictions && !(isKnown(i) && isError(i) === (wanted === "1"))) continue;
        visible.push(i);
      }
      tree = d3.quadtree(visible, (i) => layer.points[2 * i], (i) => -layer.points[2 * i + 1]);
      status.textContent = `${visible.length.toLocaleString("en")} of ${count.toLocaleString("en")} images`;
      figure.dataset.visible = visible.length;
      const shown = [...new Set(visible.map((i) => labels[i]))].sort((a, b) => a - b)
        .filter((one) => one < NUM_COLORS || (one === NO_CLASS && totals.size > 1));
      legend.replaceChildren(...shown.map((one) => element("li", {}, swatch(one), className(one))));
      redraw();
    }

    function swatch(label) {
      const mark = element("canvas", { width: 24, height: 24, ariaHidden: true });
      const pen = mark.getContext("2d"), path = new Path2D();
      shapes[label % shapes.length](path, 12, 12, 8);
      pen.fillStyle = colorOf(label);
      pen.fill(path);
      return mark;
    }

    function redraw() {
      if (isDrawn) requestAnimationFrame(draw);
      isDrawn = false;
    }

    function draw() {
      isDrawn = true;
      const ratio = canvas.width / Math.max(width, 1);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.fillStyle = colors.paper;
      context.fillRect(0, 0, width, height);
      const inView = visible.filter((i) => { const [a, b] = [x(i), y(i)]; return a > -40 && b > -40 && a < width + 40 && b < height + 40; });
      const showsImages = sprite.image.complete && inView.length <= MAX_IMAGES_IN_VIEW && transform.k > 2;
      const radius = Math.min(6, (count > 4000 ? 2 : 2.6) * Math.min(1.3, Math.max(0.75, size / 600)) * Math.sqrt(transform.k));
      figure.dataset.images = showsImages ? inView.length : 0;
      if (showsImages) {
        const side = Math.min(sprite.tile, Math.max(20, 5 * transform.k));
        for (const i of inView) {
          context.fillStyle = colorOf(labels[i]);
          context.fillRect(x(i) - side / 2 - 2, y(i) - side / 2 - 2, side + 4, side + 4);
          drawTile(context, i, x(i) - side / 2, y(i) - side / 2, side);
        }
      } else {
        const paths = new Map();
        for (const i of inView) {
          if (!paths.has(labels[i])) paths.set(labels[i], new Path2D());
          shapes[labels[i] % shapes.length](paths.get(labels[i]), x(i), y(i), radius);
        }
        context.globalAlpha = 0.8;
        for (const [label, path] of [...paths].sort((a, b) => b[0] - a[0])) {
          context.fillStyle = colorOf(label);
          context.fill(path);
        }
        context.globalAlpha = 1;
      }
      const focus = hovered ?? selected;
      if (focus === null) return;
      context.strokeStyle = colors.ink;
      context.lineWidth = 1;
      for (const neighbor of neighborsOf(focus)) {
        context.beginPath();
        context.moveTo(x(focus), y(focus));
        context.lineTo(x(neighbor), y(neighbor));
        context.stroke();
      }
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x(focus), y(focus), radius + 5, 0, 7);
      context.stroke();
    }

    const neighborsOf = (i) => [...layer.neighbors.subarray(i * data.numNeighbors, (i + 1) * data.numNeighbors)];

    function thumbnail(i, side) {
      const tile = element("canvas", { width: sprite.tile, height: sprite.tile, role: "img", ariaLabel: data.names[i] });
      tile.style.width = tile.style.height = `${side}px`;
      sprite.loaded.then(() => drawTile(tile.getContext("2d"), i, 0, 0, sprite.tile));
      return tile;
    }

    function showDetails() {
      const i = hovered ?? selected;
      figure.dataset.focus = i ?? "";
      if (i === null) {
        details.replaceChildren(element("p", {}, "Hover over or tap a dot, or press Tab to focus the map and then use the arrow keys. Pinch to zoom, or use the buttons, or the mouse wheel after clicking the map."));
        return;
      }
      const facts = element("dl", {}, element("dt", {}, "image"), element("dd", {}, data.names[i]));
      if (data.classes.length) facts.append(element("dt", {}, "class"), element("dd", {}, className(labels[i])));
      if (layer.predictions) {
        const verdict = !isKnown(i) ? "" : isError(i) ? " ✗ wrong" : " ✓ correct";
        facts.append(element("dt", {}, `prediction ${data.predictionNote}`), element("dd", {}, className(layer.predictions[i]) + verdict));
      }
      const near = neighborsOf(i).map((one) => element("li", {}, element("button", { type: "button", title: data.names[one], onclick: () => select(one) },
        thumbnail(one, 44), data.classes.length ? className(labels[one]) : data.names[one])));
      details.replaceChildren(thumbnail(i, 128), facts, element("p", { className: "map-near" }, "nearest images"), element("ol", {}, ...near));
    }

    function focusOn(i, isSelection) {
      const before = hovered ?? selected;
      if (isSelection) [selected, hovered] = [i, null];
      else hovered = i;
      if ((hovered ?? selected) !== before || isSelection) { showDetails(); redraw(); }
    }

    // Select an image, and move the map if it is outside the view.
    function select(i) {
      focusOn(i, true);
      const [a, b] = [x(i), y(i)];
      if (a < 0 || b < 0 || a > width || b > height) moveTo(transform.translate((width / 2 - a) / transform.k, (height / 2 - b) / transform.k));
    }

    function find(event) {
      const [a, b] = transform.invert([event.offsetX, event.offsetY]);
      const scale = 65535 / size;
      const nearest = tree.find((a - MARGIN - (width - 2 * MARGIN - size) / 2) * scale, ((b - MARGIN - (height - 2 * MARGIN - size) / 2) / size - 1) * 65535,
        HIT_RADIUS / transform.k * scale);
      return nearest ?? null;
    }

    // Select the nearest image in a direction. Distance perpendicular to the direction counts twice.
    function step(dx, dy) {
      const from = selected, [a, b] = from === null ? [width / 2, height / 2] : [x(from), y(from)];
      let best = null, bestCost = Infinity;
      for (const i of visible) {
        const [along, across] = [(x(i) - a) * dx + (y(i) - b) * dy, Math.abs((x(i) - a) * dy) + Math.abs((y(i) - b) * dx)];
        const cost = from === null ? Math.hypot(along, across) : along + 2 * across;
        if (i !== from && (from === null || along > 0.01) && cost < bestCost) [best, bestCost] = [i, cost];
      }
      if (best !== null) select(best);
    }

    const zoom = d3.zoom().scaleExtent([1, MAX_SCALE])
      // A wheel or a single finger scrolls the page until the map has the focus or is enlarged.
      .filter((event) => !event.button && (event.type !== "wheel" || event.ctrlKey || document.activeElement === canvas) &&
        (event.type !== "touchstart" || event.touches.length > 1 || transform.k > 1))
      .on("zoom", (event) => {
        transform = event.transform;
        canvas.style.touchAction = transform.k > 1 ? "none" : "pan-y";
        figure.dataset.scale = transform.k;
        redraw();
      });
    const surface = d3.select(canvas).call(zoom);
    const moveTo = (target) => surface.call(zoom.transform, target);
    const zoomBy = (factor) => surface.call(zoom.scaleBy, factor, selected === null ? undefined : [x(selected), y(selected)]);
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      const direction = directions[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (direction && event.shiftKey) surface.call(zoom.translateBy, ...direction.map((one) => (-60 * one) / transform.k));
      else if (direction) step(...direction);
      else if (event.key === "+" || event.key === "=") zoomBy(1.6);
      else if (event.key === "-") zoomBy(1 / 1.6);
      else if (event.key === "0") moveTo(d3.zoomIdentity);
      else if (event.key === "Escape") focusOn(null, true);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch" && !event.buttons) focusOn(find(event), false); });
    canvas.addEventListener("pointerleave", () => focusOn(null, false));
    canvas.addEventListener("pointerdown", (event) => { pointer = [event.clientX, event.clientY]; });
    canvas.addEventListener("click", (event) => {
      canvas.focus({ preventScroll: true });
      if (pointer && Math.hypot(event.clientX - pointer[0], event.clientY - pointer[1]) < 6) focusOn(find(event), true);
    });
    layerSelect.addEventListener("change", () => { layer = layers[layerSelect.value]; applyFilter(); showDetails(); });
    for (const one of [classSelect, errorSelect]) one.addEventListener("change", () => { focusOn(null, true); applyFilter(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); applyFilter(); });
    new ResizeObserver(() => {
      // The center of the view, relative to the map; it stays the same.
      const [right, down] = transform.invert([width / 2, height / 2]).map((one, axis) => (one - [width, height][axis] / 2) / size);
      [width, height] = [view.clientWidth, view.clientHeight];
      size = Math.max(1, Math.min(width, height) - 2 * MARGIN);
      [canvas.width, canvas.height] = [width, height].map((one) => Math.round(one * devicePixelRatio));
      zoom.extent([[0, 0], [width, height]]).translateExtent([[0, 0], [width, height]]);
      if (transform.k > 1) {
        surface.call(zoom.transform, d3.zoomIdentity.translate(width / 2, height / 2).scale(transform.k)
          .translate(-width / 2 - right * size, -height / 2 - down * size));
      }
      redraw();
    }).observe(view);
    canvas.style.touchAction = "pan-y";
    readColors();
    applyFilter();
    showDetails();
    sprite.loaded.then(redraw);
  }

  // Start a map when it comes into view, so that a page with many maps opens quickly.
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      startMap(entry.target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll("figure.image-map").forEach((figure) => observer.observe(figure));
})();
