// Plays one recording as the file it is. In: its address and a <video>. Out: pictures, and `onlost` at its end or on error.

import { DeliveryError } from "./delivery.js";

export class Vod {
  name = "vod";
  onlost = () => {};
  #url;
  #video;
  #abort = new AbortController();

  constructor({ url, video }) {
    this.#url = url;
    this.#video = video;
  }

  static supported() {
    return true;
  }

  start() {
    const video = this.#video;
    const { signal } = this.#abort;
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(new DeliveryError("stopped", "Stopped.")));
      video.addEventListener("loadedmetadata", () => resolve(), { signal, once: true });
      video.addEventListener(
        "error",
        () => {
          // The element does not tell a missing file from a broken one; the server does.
          this.#why().then((error) => {
            reject(error);
            if (!signal.aborted) this.onlost(error);
          });
        },
        { signal },
      );
      video.src = this.#url;
    });
  }

  async #why() {
    try {
      const response = await fetch(this.#url, { method: "HEAD" });
      if (response.status === 404) return new DeliveryError("absent", "There is no such recording.");
      if (response.status === 401 || response.status === 403) return new DeliveryError("refused", "The server refuses to play this recording.");
      if (response.ok) return new DeliveryError("unsupported", "This browser cannot play the recording.");
      return new DeliveryError("network", `The server answered ${response.status}.`);
    } catch {
      return new DeliveryError("network", "The server does not answer.");
    }
  }

  stop() {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort();
    this.#video.removeAttribute("src");
    this.#video.load();
  }

  async report() {
    if (this.#abort.signal.aborted) return null;
    return { protocol: "Recording", width: this.#video.videoWidth, height: this.#video.videoHeight };
  }
}
