// What goes on: a bar, words, and a stop button; below, what went wrong and what the model does not read.
function component(view) {
  const fill = h("div", { class: "colorlab-fill" });
  const words = h("span", { class: "colorlab-activity", role: "status", "aria-live": "polite" });
  const stop = iconButton("stop", "Stop everything within one step", () => view.send("stop"), h("span", {}, "Stop"));
  const error = h("div", { class: "colorlab-problem", role: "alert" });
  const notice = h("div", { class: "colorlab-notice", role: "status" });
  const root = h("div", { class: "colorlab-status" }, h("div", { class: "colorlab-row" }, h("div", { class: "colorlab-track" }, fill), words, stop), error, notice);
  view.follow(["is_busy", "activity", "progress"], () => {
    root.dataset.busy = view.get("is_busy");
    fill.style.width = `${view.get("progress") * 100}%`;
    words.textContent = view.get("is_busy") ? view.get("activity") : "ready";
    stop.disabled = !view.get("is_busy");
  });
  for (const [name, element] of [["error", error], ["notice", notice]])
    view.follow([name], () => ((element.textContent = view.get(name)), (element.hidden = !view.get(name))));
  return root;
}
