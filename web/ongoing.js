// What player.js and publisher.js have in common, which keep something going until they are told to stop. In: a state and
// its words, pauses. Out: the event `state`. Deliberately absent: what is kept going, and how.

export class Ongoing extends EventTarget {
  state = "idle";
  message = "";
  #hurry = () => {};

  /** Ends a wait between two attempts. */
  hurry() {
    this.#hurry();
  }

  /** For what extends this, as is `wait`. */
  say(state, message) {
    if (this.state === state && this.message === message) return;
    this.state = state;
    this.message = message;
    this.dispatchEvent(new Event("state"));
  }

  wait(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
