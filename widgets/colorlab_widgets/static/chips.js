// Words to choose from, one or none.
function component(view) {
  const row = h("div", { class: "colorlab-chips", role: "listbox" });
  view.follow(["words", "selected"], () => {
    row.setAttribute("aria-label", view.get("description"));
    const hadFocus = row.contains(document.activeElement) ? [...row.children].indexOf(document.activeElement) : -1;
    row.replaceChildren(
      ...view.get("words").map((word, index) => {
        const isSelected = index === view.get("selected");
        return h(
          "button",
          { type: "button", class: "colorlab-chip", role: "option", "aria-selected": String(isSelected), title: `${view.get("tooltip")} “${word}”`, onclick: () => view.send("select", { index: isSelected ? -1 : index }) },
          word,
        );
      }),
    );
    if (hadFocus >= 0) row.children[hadFocus]?.focus();
  });
  return row;
}
