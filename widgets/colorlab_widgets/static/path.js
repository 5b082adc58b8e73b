// A path through a plane, one point for each state; a point is clicked to go to its step.
function component(view) {
  const drawing = h("svg", { class: "colorlab-path", viewBox: "0 0 360 240", role: "img" });
  const draw = () => {
    const [points, chance] = [view.get("points"), view.get("baseline")];
    drawing.setAttribute("aria-label", view.get("description"));
    const all = [...points, ...chance];
    if (!points.length) return drawing.replaceChildren();
    const extent = (axis) => [Math.min(...all.map((point) => point[axis])), Math.max(...all.map((point) => point[axis]))];
    const [[left, right], [bottom, top]] = [extent(0), extent(1)];
    // One scale for both axes: lengths and angles mean something.
    const scale = Math.min(320 / (right - left || 1), 200 / (top - bottom || 1));
    const at = ([x, y]) => [180 + (x - (left + right) / 2) * scale, 120 - (y - (bottom + top) / 2) * scale];
    const line = (some, kind) => h("polyline", { class: kind, points: some.map((point) => at(point).join(",")).join(" ") });
    const dots = points.map((point, index) => {
      const [cx, cy] = at(point);
      const dot = h("circle", { cx, cy, r: index === view.get("selected") ? 7 : 4, class: index === view.get("selected") ? "colorlab-dot colorlab-current" : "colorlab-dot", tabindex: "-1", onclick: () => view.send("select", { index }) }, h("title", {}, view.get("names")[index] ?? ""));
      return dot;
    });
    const ends = [[0, "noise"], [points.length - 1, "picture"]].map(([index, name]) => {
      const [x, y] = at(points[index]);
      return h("text", { x, y: y - 10, "text-anchor": "middle" }, name);
    });
    drawing.replaceChildren(line(chance, "colorlab-chance"), line(points, "colorlab-line"), ...dots, ...ends);
  };
  view.follow(["points", "baseline", "selected"], draw);
  return drawing;
}
