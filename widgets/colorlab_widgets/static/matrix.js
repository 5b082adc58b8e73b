// The patches of an exemplar as cells over it, colored by a number, and each as a dot below: how similar, how much weight.
// Four lines between the dots are dragged.
function component(view) {
  // Each handle has a row of its own below the dots, so that neighbours never cover each other.
  const WIDE = 320, HIGH = 228, LEFT = 34, RIGHT = 10, TOP = 28, ROW = 13, TITLE = 16, BOTTOM = 4 * ROW + 6 + TITLE, GAP = 0.01;
  const image = h("img", { class: "colorlab-layer", alt: "", draggable: "false" });
  const cells = h("svg", { class: "colorlab-layer colorlab-cells", preserveAspectRatio: "none" });
  const label = h("div", { class: "colorlab-label" });
  const frame = h("div", { class: "colorlab-picture colorlab-matrix", role: "img" }, image, cells, label);
  const dots = h("g");
  const titles = [
    h("text", { x: 4, y: 13 }, "weight of each patch"),
    h("text", { x: WIDE - RIGHT, y: HIGH - 4, "text-anchor": "end" }, "similarity: least 0, most 1"),
  ];
  const plot = h("svg", { class: "colorlab-path colorlab-dots", viewBox: `0 0 ${WIDE} ${HIGH}` }, ...titles, dots);
  let places = view.get("thresholds").slice(), held = -1, pointed = -1;
  const tell = seldom((values) => view.send("move", { values }), 40);

  const across = (u) => LEFT + u * (WIDE - LEFT - RIGHT);
  const least = () => Math.min(0, ...view.get("weights")), most = () => Math.max(0, ...view.get("weights"));
  const up = (w) => HIGH - BOTTOM - ((w - least()) / (most() - least() || 1)) * (HIGH - TOP - BOTTOM);
  const digits = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)).toString() : "-");

  const color = (index) => {
    if (view.get("shown") === "similarity") return `rgb(255 160 0 / ${0.85 * (view.get("relative")[index] ?? 0)})`;
    const weight = view.get("weights")[index], largest = Math.max(...view.get("weights").map(Math.abs)) || 1;
    return `rgb(${weight < 0 ? "25 105 220" : "214 40 40"} / ${(0.85 * Math.abs(weight)) / largest})`;
  };
  const point = (index) => {
    pointed = index;
    const columns = view.get("columns");
    label.hidden = index < 0;
    if (index >= 0)
      label.textContent = `row ${Math.floor(index / columns)}, column ${index % columns}: similarity ${digits(view.get("similarity")[index])}, place ${digits(view.get("relative")[index])}, weight ${digits(view.get("weights")[index])}`;
    for (const part of [...cells.children, ...plot.querySelectorAll(".colorlab-dot")])
      part.classList.toggle("colorlab-current", Number(part.dataset.index) === index);
  };
  const drawCells = () => {
    const [rows, columns] = [view.get("rows"), view.get("columns")];
    cells.setAttribute("viewBox", `0 0 ${columns || 1} ${rows || 1}`);
    cells.replaceChildren(
      ...view.get("weights").map((_, index) => {
        const cell = h("rect", { x: index % columns, y: Math.floor(index / columns), width: 1, height: 1, fill: color(index), class: "colorlab-cell", "data-index": index });
        cell.addEventListener("pointerenter", () => point(index));
        return cell;
      }),
    );
    frame.dataset.cells = view.get("weights").length;
  };
  frame.addEventListener("pointerleave", () => point(-1));

  const isFixed = () => view.get("unread").length === 4;
  const handles = [0, 1, 2, 3].map((index) => {
    const low = HIGH - BOTTOM + 4 + index * ROW;
    const line = h("line", { y1: TOP, y2: low, class: "colorlab-threshold" });
    const grip = h("rect", { y: low, width: 16, height: ROW - 2, rx: 3, class: "colorlab-grip" });
    const handle = h("g", { class: "colorlab-handle", role: "slider", tabindex: "0", "aria-valuemin": "0", "aria-valuemax": "1" }, line, grip, h("title"));
    handle.addEventListener("pointerdown", (event) => {
      if (isFixed()) return;
      held = index;
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (held !== index) return;
      const box = plot.getBoundingClientRect();
      move(index, (((event.clientX - box.left) / box.width) * WIDE - LEFT) / (WIDE - LEFT - RIGHT));
      tell(places.slice());
    });
    const drop = () => {
      if (held !== index) return;
      held = -1;
      view.send("drop", { values: places.slice() });
    };
    handle.addEventListener("pointerup", drop);
    handle.addEventListener("pointercancel", drop);
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01 }[event.key];
      if (!step) return;
      // JupyterLab would move to another cell, from a threshold that stays where it is, too.
      event.preventDefault();
      event.stopPropagation();
      if (isFixed()) return;
      move(index, places[index] + step);
      view.send("drop", { values: places.slice() });
    });
    return handle;
  });
  // They stay in the page while the dots are drawn anew: what leaves it loses the pointer that holds it.
  plot.append(...handles);
  const placeHandles = () =>
    handles.forEach((handle, index) => {
      const x = across(places[index]);
      const [line, grip] = handle.children;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      grip.setAttribute("x", x - 8);
      handle.setAttribute("aria-valuenow", places[index].toFixed(2));
      handle.setAttribute("aria-label", `Threshold ${index}`);
    });
  // Neighbours keep their places: a handle stops before the next one.
  const move = (index, wanted) => {
    const low = index ? places[index - 1] + GAP : 0, high = index < 3 ? places[index + 1] - GAP : 1;
    places[index] = Math.min(Math.max(wanted, low), high);
    placeHandles();
  };
  const drawPlot = () => {
    const parts = [h("line", { x1: LEFT, x2: WIDE - RIGHT, y1: up(0), y2: up(0), class: "colorlab-zero" })];
    for (const value of new Set([least(), 0, most()])) parts.push(h("text", { x: LEFT - 4, y: up(value) + 4, "text-anchor": "end" }, digits(value)));
    view.get("weights").forEach((weight, index) => {
      const dot = h("circle", { cx: across(view.get("relative")[index] ?? 0), cy: up(weight), r: 3, class: "colorlab-dot", "data-index": index });
      dot.addEventListener("pointerenter", () => point(index));
      parts.push(dot);
    });
    dots.replaceChildren(...parts);
  };

  view.follow(["image"], () => showBytes(image, view.get("image")));
  view.follow(["thresholds"], () => {
    if (held < 0) places = view.get("thresholds").slice();
    placeHandles();
  });
  view.follow(["unread"], () =>
    handles.forEach((handle, index) => {
      const isUnread = view.get("unread").includes(index);
      handle.classList.toggle("colorlab-unread", isUnread);
      handle.setAttribute("aria-disabled", String(isFixed()));
      const use = isFixed() ? "means nothing while the edit acts on everything" : isUnread ? "is not read by these weights; it only keeps the next one above it" : "drag, or use the arrow keys";
      handle.querySelector("title").textContent = `Threshold ${index}: ${use}`;
    }),
  );
  view.follow(["weights", "relative", "similarity", "rows", "columns", "shown"], () => {
    drawCells();
    drawPlot();
    point(pointed < view.get("weights").length ? pointed : -1);
  });
  view.follow(["description"], () => {
    frame.setAttribute("aria-label", view.get("description"));
    plot.setAttribute("aria-label", "Position weight of each patch by its place between the least and the most similar one");
  });
  return h("div", { class: "colorlab-matrix-view" }, frame, plot);
}
