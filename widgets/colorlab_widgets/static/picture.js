// A picture with a map over it, marks, arrows and a label; tells where it is clicked and hovered.
function component(view) {
  const image = h("img", { class: "colorlab-layer", alt: "", draggable: "false" });
  const overlay = h("img", { class: "colorlab-layer colorlab-overlay", alt: "", draggable: "false" });
  const drawing = h("svg", { class: "colorlab-layer", preserveAspectRatio: "none" });
  const label = h("div", { class: "colorlab-label" });
  const frame = h("div", { class: "colorlab-picture", tabindex: "0", role: "img" }, image, overlay, drawing, label);
  const hover = seldom((x, y) => view.send("hover", { x, y }), 120);
  let cursor = null;

  const place = (event) => {
    const box = frame.getBoundingClientRect();
    const [height, width] = view.get("size");
    const clamp = (value, end) => Math.min(Math.max(value, 0), end - 0.01);
    return [clamp(((event.clientX - box.left) / box.width) * width, width), clamp(((event.clientY - box.top) / box.height) * height, height)];
  };
  frame.addEventListener("click", (event) => {
    const [x, y] = place(event);
    view.send("click", { x, y });
  });
  frame.addEventListener("pointermove", (event) => view.get("is_hover_sent") && hover(...place(event)));
  frame.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const [height, width] = view.get("size");
    if (event.key in moves) {
      const [across, down] = moves[event.key];
      const unit = Math.max(1, Math.round(Math.min(height, width) / 32));
      cursor = cursor ?? view.get("marks")[0]?.slice() ?? [width / 2, height / 2];
      cursor = [Math.min(Math.max(cursor[0] + across * unit, 0), width - 1), Math.min(Math.max(cursor[1] + down * unit, 0), height - 1)];
      draw();
    } else if ((event.key === "Enter" || event.key === " ") && cursor) {
      view.send("click", { x: cursor[0], y: cursor[1] });
    } else return;
    event.preventDefault();
    // JupyterLab would move to another cell.
    event.stopPropagation();
  });

  const draw = () => {
    const [height, width] = view.get("size");
    const unit = Math.max(height, width) / 100;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const ring = (x, y, kind) => h("circle", { cx: x, cy: y, r: 1.8 * unit, class: kind, "stroke-width": 0.5 * unit });
    const parts = view.get("marks").flatMap(([x, y]) => [ring(x, y, "colorlab-halo"), ring(x, y, "colorlab-mark")]);
    for (const [x1, y1, x2, y2] of view.get("arrows"))
      parts.push(h("line", { x1, y1, x2, y2, class: "colorlab-arrow", "stroke-width": 0.35 * unit }), h("circle", { cx: x1, cy: y1, r: 0.45 * unit, class: "colorlab-root" }));
    if (cursor) parts.push(ring(cursor[0], cursor[1], "colorlab-cursor"));
    drawing.replaceChildren(...parts);
  };
  view.follow(["size", "marks", "arrows"], () => {
    const [height, width] = view.get("size");
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.style.maxWidth = `${Math.round((view.get("max_height_px") * width) / height)}px`;
    cursor = null;
    draw();
  });
  view.follow(["description", "is_clickable"], () => {
    frame.setAttribute("aria-label", view.get("description"));
    frame.title = view.get("description");
    frame.classList.toggle("colorlab-clickable", view.get("is_clickable"));
  });
  view.follow(["label"], () => {
    label.textContent = view.get("label");
    label.hidden = !view.get("label");
  });
  view.follow(["overlay", "opacity"], () => {
    showBytes(overlay, view.get("overlay"));
    overlay.style.opacity = view.get("opacity");
  });
  view.follow(["frame"], () => {
    const number = view.get("frame");
    showBytes(image, view.get("image"));
    const confirm = () => {
      frame.dataset.shown = number;
      view.set({ shown: number });
    };
    image.hidden ? confirm() : image.decode().then(confirm, () => {});
  });
  return frame;
}
