// What every component shares. Python puts this text before the component's own, which defines `component`.

/** Make an element: attributes by name, listeners by `onname`, text or elements as children. */
function h(tag, attributes = {}, ...children) {
  const spaces = { svg: 1, path: 1, circle: 1, line: 1, text: 1, polyline: 1, g: 1, title: 1, rect: 1 };
  const made = tag in spaces ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const ICONS = {
  play: "M4 2.5v11l9-5.5z",
  pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z",
  stop: "M3 3h10v10H3z",
  step: "M3 2.5v11l7-5.5zM11 2.5h2v11h-2z",
  rewind: "M13 2.5v11L6 8zM3 2.5h2v11H3z",
  branch: "M4 2v9.2a2 2 0 1 0 1.2 0V9.6c4.2 0 6-1 6.6-3.9a2 2 0 1 0-1.3-.2C10 7.700 8.700 8.300 5.200 8.300V2z",
  remove: "M3.500 4.600 4.600 3.500 8 6.900l3.400-3.400 1.100 1.100L9.100 8l3.400 3.400-1.100 1.100L8 9.100l-3.400 3.400-1.100-1.100L6.900 8z",
  rename: "M2.500 11.200 10.400 3.300l2.300 2.300-7.900 7.900H2.500z",
};

/** Make a button with an icon, whose tooltip is also its name for those who do not see it. */
function iconButton(icon, tooltip, onclick, label = "") {
  const drawing = h("svg", { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, h("path", { d: ICONS[icon] }));
  return h("button", { type: "button", class: "colorlab-button", title: tooltip, "aria-label": tooltip, onclick }, drawing, label);
}

/** Show PNG bytes in an image element; the address of what it showed before is freed. */
function showBytes(image, bytes) {
  const old = image.dataset.address;
  if (!bytes || !bytes.byteLength) {
    image.removeAttribute("src");
    image.hidden = true;
    delete image.dataset.address;
  } else {
    image.dataset.address = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    image.src = image.dataset.address;
    image.hidden = false;
  }
  if (old) URL.revokeObjectURL(old);
}

/** Send at most one message in `interval` milliseconds, the newest last. */
function seldom(send, interval) {
  let waiting = null, timer = null;
  const fire = () => {
    timer = null;
    if (waiting !== null) {
      send(...waiting);
      waiting = null;
      timer = setTimeout(fire, interval);
    }
  };
  return (...values) => {
    waiting = values;
    if (timer === null) fire();
  };
}

export default {
  render({ model, el }) {
    const listeners = [];
    const view = {
      get: (name) => model.get(name),
      send: (event, values = {}) => model.send({ event, ...values }),
      set: (values) => {
        for (const [name, value] of Object.entries(values)) model.set(name, value);
        model.save_changes();
      },
      /** Call `redraw` now and whenever one of the traits changes. */
      follow: (names, redraw) => {
        for (const name of names) {
          model.on(`change:${name}`, redraw);
          listeners.push([`change:${name}`, redraw]);
        }
        redraw();
      },
    };
    const problem = h("div", { class: "colorlab-problem", role: "alert" });
    el.classList.add("colorlab");
    el.append(component(view), problem);
    view.follow(["problem"], () => {
      problem.textContent = view.get("problem");
      problem.hidden = !view.get("problem");
    });
    return () => listeners.forEach(([event, redraw]) => model.off(event, redraw));
  },
};
