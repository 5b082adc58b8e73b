// Curves in small charts, each with its own scale; a line may be weak (one of many), and its name is its tooltip.
const WIDTH = 240, HEIGHT = 112, LEFT = 40, RIGHT = 234, TOP = 8, BOTTOM = 92;
const short = (value) => (value !== 0 && (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toPrecision(3)));

function component(view) {
  const grid = h("div", { class: "colorlab-curves", role: "list" });
  const chart = ({ title, unit, tooltip, first, last, lines }) => {
    const values = lines.flatMap((line) => line.values).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values);
    const y = (value) => BOTTOM - ((value - low) / (high - low || 1)) * (BOTTOM - TOP);
    const x = (index, count) => LEFT + (count > 1 ? index / (count - 1) : 1) * (RIGHT - LEFT);
    const drawn = lines.map(({ name, values, kind }) => {
      const places = values.map((value, index) => [x(index, values.length), y(value)]).filter(([, at]) => Number.isFinite(at));
      const [right, height] = places.at(-1) ?? [LEFT, BOTTOM];
      const label = `${name}: ${short(values.at(-1) ?? NaN)}`;
      return h("g", { class: `colorlab-curve colorlab-curve-${kind}` }, h("title", {}, label), h("polyline", { points: places.map((place) => place.join(",")).join(" ") }), h("circle", { cx: right, cy: height, r: 2.5 }));
    });
    const word = (left, top, anchor, text) => h("text", { x: left, y: top, "text-anchor": anchor }, text);
    const frame = h("path", { class: "colorlab-frame-line", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` });
    const drawing = h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${lines.map(({ name, values }) => `${name} ${short(values.at(-1) ?? NaN)}`).join(", ")}` }, frame, word(LEFT - 4, TOP + 7, "end", short(high)), high > low ? word(LEFT - 4, BOTTOM, "end", short(low)) : null, word(LEFT, HEIGHT - 6, "start", String(first)), word(RIGHT, HEIGHT - 6, "end", String(last)), ...drawn);
    const legend = lines.filter(({ kind }) => kind !== "weak").map(({ name, kind }) => h("span", { class: `colorlab-legend colorlab-legend-${kind}` }, name));
    const heading = h("div", { class: "colorlab-row" }, h("b", {}, title), unit ? h("span", { class: "colorlab-quiet" }, unit) : null, ...(lines.length > 1 ? legend : []));
    return h("div", { class: "colorlab-chart", role: "listitem", title: tooltip }, heading, drawing);
  };
  view.follow(["charts"], () => {
    grid.setAttribute("aria-label", view.get("description"));
    grid.replaceChildren(...view.get("charts").map(chart));
  });
  return grid;
}
