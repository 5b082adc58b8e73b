// The pointer layer of colorlab's painter: a transparent sheet above a canvas that Python paints.
//
// It follows pen, touch and mouse, draws what is being drawn in the page itself, and sends one message for each
// finished gesture. Python puts the gesture into its drawing, paints the canvas below and confirms; then the sheet
// forgets its own copy. Positions are (x, y) in image pixels everywhere; "css" marks positions in CSS pixels.

const MAX_ZOOM = 32;
const MIN_RADIUS_PX = Math.SQRT1_2; // as in colorlab.strokes
const MIN_STEP_CSS = 0.5; // points nearer than this to the one before add nothing that can be seen
const DRAWN_TOOLS = ["brush", "eraser", "lasso"]; // their gestures stay visible until Python has painted them

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const distance = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);

/** Sends the newest message only, and never more than one before the kernel has answered. */
class Newest {
  constructor(send) {
    this.send = send;
    this.isWaiting = false;
    this.next = null;
  }
  offer(message) {
    if (this.isWaiting) {
      this.next = message;
      return;
    }
    this.isWaiting = true;
    this.send(message);
  }
  drop() {
    this.next = null;
  }
  confirm() {
    this.isWaiting = false;
    const message = this.next;
    this.next = null;
    if (message) this.offer(message);
  }
}

class PointerSheet {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.canvas = document.createElement("canvas");
    this.canvas.style.cssText = "display:block; width:100%; height:100%; touch-action:none";
    el.append(this.canvas);
    el.classList.add("colorlab-pointer");
    el.tabIndex = 0;
    el.setAttribute("aria-label", model.get("label"));
    el.title = model.get("hint");
    // JupyterLab leaves the keys of this element alone: "b" is the brush here, not a new cell.
    el.setAttribute("data-lm-suppress-shortcuts", "true");
    Object.assign(el.style, { touchAction: "none", overflow: "hidden", cursor: "none", zIndex: 1 });

    this.gesture = null; // what is being drawn
    this.unpainted = []; // what was drawn and is not yet painted by Python
    this.unconfirmed = new Set(); // ids of what was sent and is not yet handled
    this.cursor = null; // [x, y] in CSS pixels of the stage
    this.fingers = new Map(); // pointerId -> [x, y] in CSS pixels, of touches
    this.isSpaceDown = false;
    this.hover = new Newest((message) => model.send(message));
    this.stream = new Newest((message) => model.send(message));
    this.prefix = Math.random().toString(36).slice(2);
    this.count = 0;
    this.listen();
    this.measure();
    this.arrive();
  }

  listen() {
    this.abort = new AbortController();
    const on = (name, handler, options = {}) =>
      this.el.addEventListener(name, handler.bind(this), { signal: this.abort.signal, ...options });
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.cancel);
    on("pointerleave", this.leave);
    on("wheel", this.wheel, { passive: false });
    on("keydown", this.keydown);
    on("keyup", this.keyup);
    on("contextmenu", (event) => event.preventDefault());
    window.addEventListener("resize", () => this.measure(), { signal: this.abort.signal });
    this.onMessage = (message) => this.receive(message);
    this.onChange = () => this.redraw();
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change", this.onChange);
  }

  remove() {
    this.abort.abort();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change", this.onChange);
  }

  /** Tells Python that a page is there to be painted. */
  async arrive() {
    // ipycanvas stops for good when a drawing message meets a page that is still loading: let it go on.
    const manager = await this.model.widget_manager.get_model(this.model.get("canvas_manager"));
    manager.currentProcessing = manager.currentProcessing.catch(() => {});
    this.model.send({ kind: "ready" });
  }

  // Where things are.

  get view() {
    const [zoom, left, top] = this.model.get("view");
    return { zoom, left, top };
  }
  get scale() {
    return this.model.get("fit") * this.view.zoom; // CSS pixels for each image pixel
  }
  get tool() {
    return this.model.get("tools")[this.model.get("tool_index")];
  }

  toCss(event) {
    const box = this.canvas.getBoundingClientRect();
    const [height, width] = this.model.get("stage_size");
    return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
  }
  toImage([x, y]) {
    const { left, top } = this.view;
    return [left + x / this.scale, top + y / this.scale].map((value) => Math.round(value * 100) / 100);
  }

  // Pointers.

  down(event) {
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, this.toCss(event));
      if (this.fingers.size === 2) this.cancel(); // two fingers zoom
    }
    if (this.gesture || this.fingers.size > 1 || event.button === 2) return;
    event.preventDefault();
    this.el.focus({ preventScroll: true });
    this.el.setPointerCapture(event.pointerId);
    this.gesture = {
      id: this.newId(),
      pointerId: event.pointerId,
      tool: this.toolOf(event),
      color: this.model.get("color"),
      radius_px: this.model.get("radius_px"),
      points: [this.toImage(this.toCss(event))],
      last_css: this.toCss(event),
    };
    this.offerStream();
    this.redraw();
  }

  toolOf(event) {
    if (event.button === 1 || this.isSpaceDown) return "pan";
    if (event.button === 5) return "eraser"; // the other end of a pen
    if (event.altKey && this.tool === "brush") return "eyedropper";
    return this.tool;
  }

  move(event) {
    const css = this.toCss(event);
    this.cursor = css;
    if (this.fingers.has(event.pointerId)) {
      if (this.fingers.size === 2) return this.pinch(event.pointerId, css);
      this.fingers.set(event.pointerId, css);
    }
    if (!this.gesture) {
      this.hover.offer({ kind: "hover", point: this.toImage(css) });
    } else if (event.pointerId === this.gesture.pointerId) {
      if (this.gesture.tool === "pan") {
        this.moveView(css[0] - this.gesture.last_css[0], css[1] - this.gesture.last_css[1]);
        this.gesture.last_css = css;
      } else {
        // A fast pen is measured more often than the screen is drawn.
        const finer = event.getCoalescedEvents?.() ?? [];
        for (const each of finer.length ? finer : [event]) this.addPoint(this.toCss(each));
        this.offerStream();
      }
    }
    this.redraw();
  }

  addPoint(css) {
    if (distance(css, this.gesture.last_css) < MIN_STEP_CSS) return;
    this.gesture.points.push(this.toImage(css));
    this.gesture.last_css = css;
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    if (!this.gesture || event.pointerId !== this.gesture.pointerId) return;
    const gesture = this.gesture;
    if (gesture.tool !== "pan") {
      this.addPoint(this.toCss(event));
      this.stream.drop();
      if (DRAWN_TOOLS.includes(gesture.tool)) this.unpainted.push(gesture);
      this.ask(this.message(gesture, "done"));
    }
    this.gesture = null;
    this.redraw();
  }

  cancel(event) {
    if (event) this.fingers.delete(event.pointerId);
    if (this.gesture && this.gesture.tool !== "pan" && this.isStreamed(this.gesture)) {
      this.stream.drop();
      this.model.send(this.message(this.gesture, "cancelled"));
    }
    this.gesture = null;
    this.redraw();
  }

  leave() {
    if (this.gesture) return;
    this.cursor = null;
    this.redraw();
  }

  pinch(pointerId, css) {
    const [other] = [...this.fingers].filter(([id]) => id !== pointerId).map(([, place]) => place);
    const before = this.fingers.get(pointerId);
    const middle = (one) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
    this.zoomAround(middle(before), distance(css, other) / Math.max(distance(before, other), 1));
    this.moveView(middle(css)[0] - middle(before)[0], middle(css)[1] - middle(before)[1]);
    this.fingers.set(pointerId, css);
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the notebook
    event.preventDefault();
    this.zoomAround(this.toCss(event), Math.exp(-event.deltaY / 300));
  }

  // Messages.

  message({ id, tool, color, radius_px, points }, phase) {
    return { kind: "gesture", id, tool, color, radius_px, points, phase };
  }
  isStreamed(gesture) {
    return this.model.get("streamed_tools").includes(gesture.tool);
  }
  offerStream() {
    if (this.gesture && this.isStreamed(this.gesture)) this.stream.offer(this.message(this.gesture, "going"));
  }

  newId() {
    return `${this.prefix}-${this.count++}`;
  }

  /** Sends what Python has to handle, and is busy until it has. */
  ask(message) {
    this.unconfirmed.add(message.id);
    this.el.setAttribute("aria-busy", "true");
    this.model.send(message);
  }

  receive(message) {
    if (message.kind !== "confirmed") return;
    if (message.what === "hover") this.hover.confirm();
    if (message.what === "going") this.stream.confirm();
    if (!this.unconfirmed.delete(message.id)) return;
    this.el.setAttribute("aria-busy", String(this.unconfirmed.size > 0));
    // A frame later: the canvas below is painted by then.
    requestAnimationFrame(() => {
      this.unpainted = this.unpainted.filter((gesture) => gesture.id !== message.id);
      this.redraw();
    });
  }

  // Keys.

  keydown(event) {
    if (event.key === " ") this.isSpaceDown = true;
    if (event.key === "Escape" && this.gesture) this.cancel();
    else this.useShortcut(event);
  }

  useShortcut(event) {
    const isControlled = event.ctrlKey || event.metaKey;
    const name = `${isControlled ? "ctrl+" : ""}${isControlled && event.shiftKey ? "shift+" : ""}${event.key.toLowerCase()}`;
    const action = this.model.get("shortcuts")[name];
    if (!action && event.key !== " ") return; // the space bar would scroll the page
    event.preventDefault();
    if (action) this.act(...action.split(":"));
  }

  keyup(event) {
    if (event.key === " ") this.isSpaceDown = false;
  }

  /** Does what a key stands for; what changes the next gesture takes effect here, before Python hears of it. */
  act(what, value) {
    if (what === "tool") this.put("tool_index", this.model.get("tools").indexOf(value));
    if (what === "size") this.put("radius_px", clamp(this.model.get("radius_px") * value, ...this.model.get("radius_range")));
    if (what === "zoom") {
      const [height, width] = this.model.get("stage_size");
      this.zoomAround(this.cursor ?? [width / 2, height / 2], Number(value));
    }
    if (what === "command") this.ask({ kind: "command", name: value, id: this.newId() });
  }

  put(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  // The view.

  zoomAround(css, factor) {
    const { zoom, left, top } = this.view;
    const wanted = clamp(zoom * factor, 1, MAX_ZOOM);
    const shift = (1 / zoom - 1 / wanted) / this.model.get("fit");
    this.setView(wanted, left + css[0] * shift, top + css[1] * shift);
  }
  moveView(right, down) {
    const { zoom, left, top } = this.view;
    this.setView(zoom, left - right / this.scale, top - down / this.scale);
  }
  setView(zoom, left, top) {
    const room = (1 - 1 / zoom) / this.model.get("fit"); // image pixels beyond the view, for each CSS pixel of the stage
    const [height, width] = this.model.get("stage_size");
    this.put("view", [zoom, clamp(left, 0, width * room), clamp(top, 0, height * room)]);
  }

  /** Moves the canvas of Python, until it is painted for the new view, to where it belongs now. */
  alignBelow() {
    const below = this.el.parentElement?.querySelector(":scope > canvas");
    if (!below) return;
    const [zoom, left, top] = this.model.get("painted_view");
    const factor = this.view.zoom / zoom;
    const shift = [(left - this.view.left) * this.scale, (top - this.view.top) * this.scale];
    below.style.transformOrigin = "0 0";
    below.style.transform = factor === 1 && !shift[0] && !shift[1]
      ? "" : `translate(${shift[0]}px, ${shift[1]}px) scale(${factor})`;
  }

  // Drawing.

  measure() {
    if (this.model.get("pixel_ratio") !== window.devicePixelRatio) this.put("pixel_ratio", window.devicePixelRatio);
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    this.alignBelow();
    const ratio = window.devicePixelRatio;
    const [height, width] = this.model.get("stage_size").map((side) => Math.round(side * ratio));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    const scale = this.scale * ratio;
    pen.setTransform(scale, 0, 0, scale, -this.view.left * scale, -this.view.top * scale);
    for (const gesture of this.unpainted) this.drawGesture(pen, gesture);
    if (this.gesture) this.drawGesture(pen, this.gesture);
    this.drawCursor(pen, ratio);
  }

  drawGesture(pen, { tool, color, radius_px, points }) {
    pen.lineCap = pen.lineJoin = "round";
    pen.globalAlpha = tool === "brush" ? this.model.get("opacity") : 1;
    if (tool === "brush") this.drawPath(pen, points, color, 2 * Math.max(radius_px, MIN_RADIUS_PX));
    if (tool === "eraser") this.drawPath(pen, points, "rgba(128, 128, 128, 0.5)", 2 * radius_px);
    if (tool === "lasso") {
      this.drawPath(pen, [...points, points[0]], "#000", 3 / this.scale);
      this.drawPath(pen, [...points, points[0]], "#fff", 1.5 / this.scale);
    }
    if (tool === "move") this.drawPath(pen, [points[0], points[points.length - 1]], "#fff", 2 / this.scale);
    pen.globalAlpha = 1;
  }

  drawPath(pen, points, style, width) {
    pen.strokeStyle = pen.fillStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    if (points.length === 1) {
      pen.arc(...points[0], width / 2, 0, 2 * Math.PI);
      pen.fill();
      return;
    }
    pen.moveTo(...points[0]);
    for (const point of points.slice(1)) pen.lineTo(...point);
    pen.stroke();
  }

  drawCursor(pen, ratio) {
    if (!this.cursor || !this.canvas.isConnected) return;
    const tool = this.isSpaceDown ? "pan" : this.gesture?.tool ?? this.tool;
    const isRing = tool === "brush" || tool === "eraser";
    this.el.style.cursor = isRing ? "none" : { pan: "grab", move: "move" }[tool] ?? "crosshair";
    if (!isRing) return;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    // White in black, seen on everything; the color of the brush in the middle.
    for (const [style, width] of [["#000", 2.5], ["#fff", 1]]) {
      pen.beginPath();
      pen.arc(...this.cursor, Math.max(this.model.get("radius_px") * this.scale, 2), 0, 2 * Math.PI);
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.stroke();
    }
    if (tool === "brush") {
      pen.beginPath();
      pen.arc(...this.cursor, 2, 0, 2 * Math.PI);
      pen.fillStyle = this.model.get("color");
      pen.fill();
    }
  }
}

/** Gives the user a file that Python has made. Here and not in `render`, so that two views of it save it once. */
function initialize({ model }) {
  model.on("msg:custom", (message, buffers) => {
    if (message.kind !== "download" || !document.hasFocus()) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(buffers, { type: message.type }));
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

function render({ model, el }) {
  const sheet = new PointerSheet(model, el);
  return () => sheet.remove();
}

export default { initialize, render };
