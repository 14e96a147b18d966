// What every way to deliver a broadcast says when it cannot. The kind is for player.js, the message for the viewer.
//
//   absent       nobody publishes under this name
//   ended        it was live and is over
//   unsupported  this browser or this stream cannot go this way; another way may work
//   timeout      no connection in time; another way may work
//   network      the connection broke, or there is none
//   busy         the server asks to come back later
//   refused      the server does not let this viewer in
//   stopped      our own stop() came first

export class DeliveryError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = "DeliveryError";
    this.kind = kind;
  }

  /** Whether the next way in the order is worth trying at once. */
  get elsewhere() {
    return this.kind !== "refused" && this.kind !== "stopped";
  }
}
