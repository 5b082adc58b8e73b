// The outbox: what goes to Python, and what Python has not handled yet.

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

class Outbox {
  /** `busy` is told whether something is left that Python has to handle. */
  constructor(model, busy) {
    this.send = (message) => model.send(message);
    this.busy = busy;
    this.hover = new Newest(this.send);
    this.stream = new Newest(this.send);
    this.unconfirmed = new Set(); // ids of what was asked and is not yet handled
    this.prefix = Math.random().toString(36).slice(2);
    this.count = 0;
  }

  newId() {
    return `${this.prefix}-${this.count++}`;
  }

  /** Sends what Python has to handle, and is busy until it has. */
  ask(message) {
    this.unconfirmed.add(message.id);
    this.busy(true);
    this.send(message);
  }

  /** Takes an answer in; returns whether something that was asked is handled now. */
  confirm({ what, id }) {
    if (what === "hover") this.hover.confirm();
    if (what === "going") this.stream.confirm();
    if (!this.unconfirmed.delete(id)) return false;
    this.busy(this.unconfirmed.size > 0);
    return true;
  }
}
