// The pen: draws what is being drawn, and the cursor, on the sheet's own canvas at the resolution of the screen.

const MIN_RADIUS_PX = Math.SQRT1_2; // as in colorlab.strokes
const RINGS = ["brush", "eraser"]; // tools whose cursor is a ring as wide as what they paint

class Pen {
  constructor(model, stage, canvas) {
    Object.assign(this, { model, stage, canvas });
  }

  /** Draws everything anew; `cursor` is where it is in CSS pixels, or null. */
  draw(gestures, cursor, tool) {
    const { canvas, stage } = this;
    const ratio = window.devicePixelRatio;
    const [height, width] = stage.size.map((side) => Math.round(side * ratio));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    const scale = stage.scale * ratio;
    pen.setTransform(scale, 0, 0, scale, -stage.view.left * scale, -stage.view.top * scale);
    for (const gesture of gestures) this.drawGesture(pen, gesture);
    if (cursor && RINGS.includes(tool)) this.drawRing(pen, cursor, tool, ratio);
  }

  drawGesture(pen, { tool, color, radius_px, points }) {
    const line = 1 / this.stage.scale;
    const last = points[points.length - 1];
    pen.lineCap = pen.lineJoin = "round";
    pen.globalAlpha = tool === "brush" ? this.model.get("opacity") : 1;
    if (tool === "brush") this.drawPath(pen, points, color, 2 * Math.max(radius_px, MIN_RADIUS_PX));
    if (tool === "eraser") this.drawPath(pen, points, "rgba(128, 128, 128, 0.5)", 2 * radius_px);
    if (tool === "lasso") {
      this.drawPath(pen, [...points, points[0]], "#000", 3 * line);
      this.drawPath(pen, [...points, points[0]], "#fff", 1.5 * line);
    }
    if (tool === "move") this.drawPath(pen, [points[0], last], "#fff", 2 * line);
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

  drawRing(pen, cursor, tool, ratio) {
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    // White in black, seen on everything; the color of the brush in the middle.
    for (const [style, width] of [["#000", 2.5], ["#fff", 1]]) {
      pen.beginPath();
      pen.arc(...cursor, Math.max(this.model.get("radius_px") * this.stage.scale, 2), 0, 2 * Math.PI);
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.stroke();
    }
    if (tool === "brush") {
      pen.beginPath();
      pen.arc(...cursor, 2, 0, 2 * Math.PI);
      pen.fillStyle = this.model.get("color");
      pen.fill();
    }
  }
}
