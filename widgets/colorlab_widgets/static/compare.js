// Two pictures one over the other, and a line between them that is dragged; a map may lie over both.
function component(view) {
  const layers = ["first", "second", "overlay"].map((name) => h("img", { class: `colorlab-layer colorlab-${name}`, alt: "", draggable: "false" }));
  const line = h("div", { class: "colorlab-divider" }, h("span"));
  const slider = h("input", { type: "range", min: "0", max: "100", value: "50", class: "colorlab-wipe", "aria-label": "How much of the first picture is shown, in percent", title: "Drag to compare" });
  const names = ["first", "second"].map((name) => h("div", { class: `colorlab-label colorlab-label-${name}` }));
  const frame = h("div", { class: "colorlab-picture" }, ...layers, line, ...names, slider);
  const cut = () => {
    layers[1].style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    line.style.left = `${slider.value}%`;
    frame.dataset.cut = slider.value;
  };
  slider.addEventListener("input", cut);
  slider.addEventListener("keydown", (event) => event.stopPropagation());
  cut();
  ["first", "second", "overlay"].forEach((name, index) => view.follow([name], () => showBytes(layers[index], view.get(name))));
  view.follow(["names"], () => names.forEach((label, index) => ((label.textContent = view.get("names")[index] ?? ""), (label.hidden = !label.textContent))));
  view.follow(["size"], () => {
    const [height, width] = view.get("size");
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.style.maxWidth = `${Math.round((view.get("max_height_px") * width) / height)}px`;
  });
  return frame;
}
