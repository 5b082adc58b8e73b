// Values by name as bars to both sides of zero, each with what chance would give as a tick.
function component(view) {
  const table = h("div", { class: "colorlab-bars", role: "list" });
  view.follow(["bars"], () => {
    const bars = view.get("bars");
    const values = bars.flatMap((bar) => [bar.value, bar.baseline ?? 0]);
    const low = Math.min(0, ...values), high = Math.max(0, ...values), span = high - low || 1;
    const percent = (value) => `${((value - low) / span) * 100}%`;
    table.setAttribute("aria-label", view.get("description"));
    table.replaceChildren(
      ...bars.map((bar) => {
        const track = h("div", { class: "colorlab-track" });
        const fill = h("div", { class: "colorlab-fill" });
        fill.style.left = percent(Math.min(bar.value, 0));
        fill.style.width = `${(Math.abs(bar.value) / span) * 100}%`;
        if (bar.color) fill.style.background = bar.color;
        track.append(fill);
        if (bar.baseline !== null && bar.baseline !== undefined) {
          const tick = h("div", { class: "colorlab-tick", title: `by chance: ${bar.baseline.toPrecision(2)}` });
          tick.style.left = percent(bar.baseline);
          track.append(tick);
        }
        return h("div", { class: "colorlab-bar", role: "listitem", title: `${bar.name}: ${bar.text}` }, h("span", { class: "colorlab-bar-name" }, bar.name), track, h("span", { class: "colorlab-number" }, bar.text));
      }),
    );
  });
  return table;
}
