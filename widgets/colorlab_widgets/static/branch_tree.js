// The history: one row for each run, joined to the run it was branched from.
const ROW = 46, LANE = 18;
function component(view) {
  const list = h("div", { class: "colorlab-tree", role: "tree", "aria-label": "History of runs" });
  const rename = (row, label) => {
    const field = h("input", { type: "text", value: row.name, class: "colorlab-rename", "aria-label": "New name" });
    let isOver = false;
    const finish = (isKept) => {
      if (isOver) return;
      isOver = true;
      if (isKept && field.value !== row.name) view.send("rename", { name: row.name, new_name: field.value });
      field.replaceWith(label);
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    label.replaceWith(field);
    field.focus();
    field.select();
  };
  const lanes = (rows) => {
    const middle = (index) => index * ROW + ROW / 2, across = (row) => 10 + row.depth * LANE;
    const parts = [];
    rows.forEach((row, index) => {
      if (row.parent >= 0) {
        const parent = rows[row.parent];
        const [x1, y1, x2, y2] = [across(parent), middle(row.parent), across(row), middle(index)];
        parts.push(h("path", { class: "colorlab-lane", d: `M${x1} ${y1}V${y2 - 10}Q${x1} ${y2} ${x1 + 10} ${y2}H${x2}` }));
      }
    });
    rows.forEach((row, index) => parts.push(h("circle", { class: row.is_current ? "colorlab-node colorlab-current" : "colorlab-node", cx: across(row), cy: middle(index), r: 5 })));
    const width = 20 + LANE * Math.max(0, ...rows.map((row) => row.depth));
    return h("svg", { class: "colorlab-lanes", width, height: rows.length * ROW, "aria-hidden": "true" }, ...parts);
  };
  view.follow(["rows", "thumbnails"], () => {
    const rows = view.get("rows"), thumbnails = view.get("thumbnails");
    const focused = document.activeElement?.closest(".colorlab-run")?.dataset.name;
    for (const image of list.querySelectorAll("img")) showBytes(image, null);
    const entries = rows.map((row, index) => {
      const image = h("img", { alt: "" });
      showBytes(image, thumbnails[index]);
      const name = h("span", { class: "colorlab-name", title: "Double-click to rename" }, row.name);
      name.addEventListener("dblclick", (event) => (event.stopPropagation(), rename(row, name)));
      const quiet = (action) => (event) => (event.stopPropagation(), action());
      const entry = h(
        "div",
        { class: "colorlab-run", role: "treeitem", tabindex: "0", "data-name": row.name, "aria-selected": String(row.is_current), title: row.subject, onclick: () => view.send("go_to", { name: row.name }) },
        image,
        h("div", { class: "colorlab-what" }, h("div", {}, name, h("span", { class: "colorlab-quiet" }, ` ${row.progress}`)), h("div", { class: "colorlab-quiet" }, row.change)),
        iconButton("rename", `Rename ${row.name}`, quiet(() => rename(row, name))),
        iconButton("remove", `Prune ${row.name} and everything branched from it`, quiet(() => view.send("prune", { name: row.name }))),
      );
      entry.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.target !== entry) return;
        const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (move) entries[index + move]?.focus();
        else if (event.key === "Enter") view.send("go_to", { name: row.name });
        else if (event.key === "Delete") view.send("prune", { name: row.name });
        else if (event.key === "F2") rename(row, name);
        else return;
        event.preventDefault();
      });
      return entry;
    });
    const hint = h("div", { class: "colorlab-quiet colorlab-hint" }, "Every run will be kept here, with what was changed.");
    list.replaceChildren(...(rows.length ? [lanes(rows), h("div", { class: "colorlab-runs" }, ...entries)] : [hint]));
    if (focused) entries.find((entry) => entry.dataset.name === focused)?.focus();
  });
  return list;
}
