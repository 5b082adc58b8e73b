// The stage: which part of the picture is seen, and where that lies on the page. Positions are (x, y) in image pixels;
// "css" marks positions in CSS pixels from the stage's upper left corner, as they would be if it had all its room.

const MAX_ZOOM = 32;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const distance = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);

/** Calls `changed` now and whenever a CSS pixel gets another number of device pixels: another screen, or browser zoom. */
function watchPixelRatio(changed, signal) {
  const watch = () => {
    changed(window.devicePixelRatio);
    // The query asks for the present ratio, so that leaving it is a change; nothing else tells of another screen.
    const query = window.matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    query.addEventListener("change", watch, { once: true, signal });
  };
  watch();
  // A ratio that no decimal hits exactly matches no query; browser zoom, which makes such ratios, also resizes.
  window.addEventListener("resize", () => changed(window.devicePixelRatio), { signal });
}

class Stage {
  constructor(model, element) {
    this.model = model;
    this.element = element;
  }

  get view() {
    const [zoom, left, top] = this.model.get("view");
    return { zoom, left, top };
  }
  get scale() {
    return this.model.get("fit") * this.view.zoom; // CSS pixels for each image pixel
  }
  get size() {
    return this.model.get("stage_size"); // (height, width) in CSS pixels of a stage that has all the room it wants
  }
  get middle() {
    const [height, width] = this.size;
    return [width / 2, height / 2];
  }

  toCss(event) {
    const box = this.element.getBoundingClientRect();
    const [height, width] = this.size;
    return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
  }
  toImage([x, y]) {
    const { left, top } = this.view;
    return [left + x / this.scale, top + y / this.scale].map((value) => Math.round(value * 100) / 100);
  }

  zoomAround(css, factor) {
    const { zoom, left, top } = this.view;
    const wanted = clamp(zoom * factor, 1, MAX_ZOOM);
    const shift = (1 / zoom - 1 / wanted) / this.model.get("fit");
    this.see(wanted, left + css[0] * shift, top + css[1] * shift);
  }
  move(right, down) {
    const { zoom, left, top } = this.view;
    this.see(zoom, left - right / this.scale, top - down / this.scale);
  }
  /** Moves and magnifies at once: two fingers, one of which has moved. */
  pinch(before, after, other) {
    const middle = (one) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
    this.zoomAround(middle(before), distance(after, other) / Math.max(distance(before, other), 1));
    this.move(middle(after)[0] - middle(before)[0], middle(after)[1] - middle(before)[1]);
  }
  see(zoom, left, top) {
    const room = (1 - 1 / zoom) / this.model.get("fit"); // image pixels beyond the view, for each CSS pixel of the stage
    const [height, width] = this.size;
    this.model.set("view", [zoom, clamp(left, 0, width * room), clamp(top, 0, height * room)]);
    this.model.save_changes();
  }

  /** Moves the canvas of Python, until it is painted for the new view, to where it belongs now. */
  alignBelow(below) {
    if (!below) return;
    const [zoom, left, top] = this.model.get("painted_view");
    const { view, scale } = this;
    const factor = view.zoom / zoom;
    const [height, width] = this.size;
    // In shares of the canvas, which is smaller than the stage where its column is narrow.
    const shift = [((left - view.left) * scale) / width, ((top - view.top) * scale) / height];
    below.style.transformOrigin = "0 0";
    below.style.transform = factor === 1 && !shift[0] && !shift[1]
      ? "" : `translate(${100 * shift[0]}%, ${100 * shift[1]}%) scale(${factor})`;
  }
}
