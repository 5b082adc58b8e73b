// The pointer layer of colorlab's painter: a transparent sheet above a canvas that Python paints. Python puts the texts
// of `stage`, `pen` and `outbox` before this one.
//
// It follows pen, touch and mouse, draws what is being drawn in the page itself, and sends one message for each
// finished gesture. Python puts the gesture into its drawing, paints the canvas below and confirms; then the sheet
// forgets its own copy.

const MIN_STEP_CSS = 0.5; // points nearer than this to the one before add nothing that can be seen
const MIN_PAUSE_MS = 4; // between drawings outside of frames, so that a mouse of 1000 Hz leaves time for the page
const DRAWN_TOOLS = ["brush", "eraser", "lasso"]; // their gestures stay visible until Python has painted them
const CURSORS = { brush: "none", eraser: "none", pan: "grab", move: "move" };

class PointerSheet {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.canvas = document.createElement("canvas");
    this.canvas.style.cssText = "position:absolute; inset:0; width:100%; height:100%; touch-action:none";
    el.append(this.canvas);
    el.classList.add("colorlab-pointer");
    el.tabIndex = 0;
    el.setAttribute("aria-label", model.get("label"));
    el.title = model.get("hint");
    // JupyterLab leaves the keys of this element alone: "b" is the brush here, not a new cell.
    el.setAttribute("data-lm-suppress-shortcuts", "true");
    Object.assign(el.style, { position: "relative", touchAction: "none", overflow: "hidden", cursor: "none", zIndex: 1 });

    this.stage = new Stage(model, this.canvas);
    this.pen = new Pen(model, this.stage, this.canvas);
    this.outbox = new Outbox(model, (isBusy) => el.setAttribute("aria-busy", String(isBusy)));
    this.gesture = null; // what is being drawn
    this.unpainted = []; // what was drawn and is not yet painted by Python
    this.cursor = null; // [x, y] in CSS pixels of the stage
    this.fingers = new Map(); // pointerId -> [x, y] in CSS pixels, of touches
    this.isSpaceDown = false;
    this.frame = null; // the frame that `redraw` has asked for
    this.drawnAt_ms = 0;
    this.listen();
    this.arrive();
  }

  listen() {
    this.abort = new AbortController();
    const { signal } = this.abort;
    const on = (name, handler, options = {}) =>
      this.el.addEventListener(name, handler.bind(this), { signal, ...options });
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerrawupdate", this.trace);
    on("pointerup", this.up);
    on("pointercancel", this.cancel);
    on("pointerleave", this.leave);
    on("wheel", this.wheel, { passive: false });
    on("keydown", this.keydown);
    on("keyup", this.keyup);
    on("contextmenu", (event) => event.preventDefault());
    // The canvas below takes the focus and keeps every key, Tab too: whoever comes to it by keyboard is brought here.
    document.addEventListener("focusin", ({ target }) => {
      if (target.tagName !== "CANVAS" || target.parentElement !== this.el.parentElement) return;
      target.tabIndex = -1;
      this.el.focus({ preventScroll: true });
    }, { signal });
    watchPixelRatio((ratio) => {
      if (this.model.get("pixel_ratio") !== ratio) this.put("pixel_ratio", ratio);
      this.redraw();
    }, signal);
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

  get tool() {
    return this.model.get("tools")[this.model.get("tool_index")];
  }

  // Pointers.

  down(event) {
    if (event.pointerType === "touch") {
      if (this.gesture?.isPen) return; // the palm of the hand that holds the pen
      this.fingers.set(event.pointerId, this.stage.toCss(event));
      if (this.fingers.size === 2) this.cancel(); // two fingers zoom
    }
    if (this.gesture || this.fingers.size > 1 || event.button === 2) return;
    event.preventDefault();
    this.el.focus({ preventScroll: true });
    this.el.setPointerCapture(event.pointerId);
    const css = this.stage.toCss(event);
    this.gesture = {
      id: this.outbox.newId(),
      pointerId: event.pointerId,
      isPen: event.pointerType === "pen",
      tool: this.toolOf(event),
      color: this.model.get("color"),
      radius_px: this.model.get("radius_px"),
      points: [this.stage.toImage(css)],
      last_css: css,
      isTraced: false, // whether `trace` adds its points, and not `move`
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
    const css = this.stage.toCss(event);
    if (this.gesture && this.gesture.pointerId !== event.pointerId && !this.fingers.has(event.pointerId)) return;
    this.cursor = css;
    if (this.fingers.has(event.pointerId)) {
      const before = this.fingers.get(event.pointerId);
      this.fingers.set(event.pointerId, css);
      if (this.fingers.size === 2) {
        const other = [...this.fingers.keys()].find((id) => id !== event.pointerId);
        this.stage.pinch(before, css, this.fingers.get(other));
        return;
      }
    }
    if (!this.gesture) {
      this.outbox.hover.offer({ kind: "hover", point: this.stage.toImage(css) });
    } else if (event.pointerId === this.gesture.pointerId) {
      if (this.gesture.tool === "pan") {
        this.stage.move(css[0] - this.gesture.last_css[0], css[1] - this.gesture.last_css[1]);
        this.gesture.last_css = css;
      } else {
        if (!this.gesture.isTraced) this.addPoints(event);
        this.offerStream();
      }
    }
    if (!this.gesture?.isTraced) this.redraw();
  }

  /**
   * Draws at once what was drawn, before `move` hears of it: that waits for the next frame. Browsers that do not tell
   * of raw updates, and pages that came without encryption from elsewhere, do with `move` alone.
   */
  trace(event) {
    if (event.pointerId !== this.gesture?.pointerId || this.gesture.tool === "pan") return;
    this.gesture.isTraced = true;
    this.cursor = this.stage.toCss(event);
    this.addPoints(event);
    if (performance.now() - this.drawnAt_ms < MIN_PAUSE_MS) this.redraw();
    else this.draw();
  }

  addPoints(event) {
    // A fast pen is measured more often than events come.
    const finer = event.getCoalescedEvents?.() ?? [];
    for (const each of finer.length ? finer : [event]) this.addPoint(this.stage.toCss(each));
  }

  addPoint(css) {
    if (distance(css, this.gesture.last_css) < MIN_STEP_CSS) return;
    this.gesture.points.push(this.stage.toImage(css));
    this.gesture.last_css = css;
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    if (!this.gesture || event.pointerId !== this.gesture.pointerId) return;
    const gesture = this.gesture;
    if (gesture.tool !== "pan") {
      this.addPoint(this.stage.toCss(event));
      this.outbox.stream.drop();
      if (DRAWN_TOOLS.includes(gesture.tool)) this.unpainted.push(gesture);
      this.outbox.ask(this.message(gesture, "done"));
    }
    this.gesture = null;
    this.redraw();
  }

  cancel(event) {
    if (event) {
      this.fingers.delete(event.pointerId);
      if (event.pointerId !== this.gesture?.pointerId) return;
    }
    if (this.gesture && this.gesture.tool !== "pan" && this.isStreamed(this.gesture)) {
      this.outbox.stream.drop();
      this.outbox.send(this.message(this.gesture, "cancelled"));
    }
    this.gesture = null;
    this.redraw();
  }

  leave() {
    if (this.gesture) return;
    this.cursor = null;
    this.redraw();
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the notebook
    event.preventDefault();
    this.stage.zoomAround(this.stage.toCss(event), Math.exp(-event.deltaY / 300));
  }

  // Messages.

  message({ id, tool, color, radius_px, points }, phase) {
    return { kind: "gesture", id, tool, color, radius_px, points, phase };
  }
  isStreamed(gesture) {
    return this.model.get("streamed_tools").includes(gesture.tool);
  }
  offerStream() {
    if (this.gesture && this.isStreamed(this.gesture)) this.outbox.stream.offer(this.message(this.gesture, "going"));
  }

  receive(message) {
    if (message.kind !== "confirmed" || !this.outbox.confirm(message)) return;
    // A frame later: the canvas below is painted by then.
    requestAnimationFrame(() => {
      this.unpainted = this.unpainted.filter((gesture) => gesture.id !== message.id);
      this.redraw();
    });
  }

  put(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
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
    if (what === "zoom") this.stage.zoomAround(this.cursor ?? this.stage.middle, Number(value));
    if (what === "command") this.outbox.ask({ kind: "command", name: value, id: this.outbox.newId() });
  }

  // Drawing.

  /** Draws in the next frame, however often it is asked for until then. */
  redraw() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame); // it would draw the same
    this.frame = null;
    this.drawnAt_ms = performance.now();
    this.stage.alignBelow(this.el.parentElement?.querySelector(":scope > canvas"));
    const tool = this.isSpaceDown ? "pan" : this.gesture?.tool ?? this.tool;
    if (this.cursor) this.el.style.cursor = CURSORS[tool] ?? "crosshair";
    this.pen.draw(this.gesture ? [...this.unpainted, this.gesture] : this.unpainted, this.cursor, tool);
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
