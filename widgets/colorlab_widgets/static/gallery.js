// Small pictures in a grid, each with a name; one may be selected, by pointer or arrow keys.
function component(view) {
  const list = h("div", { class: "colorlab-gallery", role: "listbox" });
  const choose = (index) => view.send("select", { index });
  view.follow(["items", "images", "selected"], () => {
    const images = view.get("images");
    const hadFocus = list.contains(document.activeElement);
    const cards = view.get("items").map(([name, tooltip], index) => {
      const image = h("img", { alt: name });
      showBytes(image, images[index]);
      const isSelected = index === view.get("selected");
      return h(
        "button",
        { type: "button", class: "colorlab-card", role: "option", title: tooltip, "aria-selected": String(isSelected), tabindex: isSelected || (view.get("selected") < 0 && index === 0) ? "0" : "-1", onclick: () => choose(index) },
        image,
        h("span", {}, name),
      );
    });
    for (const image of list.querySelectorAll("img")) showBytes(image, null);
    list.replaceChildren(...cards);
    list.setAttribute("aria-label", view.get("description"));
    list.style.setProperty("--colorlab-card", `${view.get("card_px")}px`);
    if (hadFocus) list.querySelector('[aria-selected="true"]')?.focus();
  });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    choose(Math.min(Math.max(view.get("selected") + move, 0), view.get("items").length - 1));
    event.preventDefault();
    event.stopPropagation();
  });
  return list;
}
