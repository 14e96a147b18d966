// Keeps one broadcast on the screen. In: an app, a stream id, an order of ways to deliver it, a <video>. Out: events
// `state` (what the viewer should be told), `report` (figures, once a second) and `blocked` (the browser wants a click).
// Deliberately absent: everything one sees (play.js) and everything that speaks a protocol (whep.js, hls.js, vod.js).
//
// States: idle, connecting, playing, interrupted (the publisher is away, the connection stays), absent, ended, failed.
// From absent, ended and failed it comes back by itself.

import { DeliveryError } from "./delivery.js";
import { Hls } from "./hls.js";
import { Ongoing } from "./ongoing.js";
import { Vod } from "./vod.js";
import { Whep } from "./whep.js";

const WAYS = { webrtc: Whep, hls: Hls, vod: Vod };

const REPORT_MS = 1000;
// Until the first picture: the words over it should leave when it comes.
const FIRST_MS = 100;
// Shorter stalls are what jitter buffers and segment borders do.
const STALL_MS = 2000;
// A browser takes seven seconds to notice that a server has vanished. When nothing arrives, the server is asked.
const SILENT_MS = 900;
const ASK_EVERY_MS = 5000;
// Data arrive and no picture comes of them: this browser cannot decode what that way delivers.
const UNDECODED_MS_MAX = 5000;
const WAIT_MS_MIN = 1000;
const WAIT_MS_MAX = 8000;
// What is lost later than this after the last time is looked for again at once.
const LASTED_MS_MIN = 5000;
// A server that wants its viewers elsewhere gives them some twenty seconds.
const MOVE_MS_MIN = 250;
const MOVE_MS_MAX = 2000;
const PICTURE_MS_MAX = 5000;
const PICTURE_MS = 30;
const FACTS_MS = 10000;
const FACTS_STALLED_MS = 2000;

export class Player extends Ongoing {
  /** What REST says about the broadcast; null where this viewer may not ask. */
  facts = null;
  #video;
  #app;
  #id;
  #order;
  #target_s;
  #turn = 0;
  #delivery = null;
  #moving = null;
  #lost_at = -Infinity;
  #poor = new Set();
  #factsAllowed = true;
  #facts_at = -Infinity;

  /** `app` is the address of the application, without a slash at its end. */
  constructor({ video, app, id, order, targetLatency }) {
    super();
    this.#video = video;
    this.#app = app;
    this.#id = id;
    this.#order = order.filter((name) => name in WAYS);
    this.#target_s = targetLatency;
    video.addEventListener("play", () => this.#delivery?.toLiveEdge?.());
  }

  /** The way that is being tried or played: webrtc, hls, vod, or null. */
  get way() {
    return this.#delivery?.name ?? null;
  }

  start() {
    this.#run(++this.#turn);
  }

  stop() {
    this.#turn++;
    this.#delivery?.stop();
    this.#delivery = null;
    this.hurry();
    this.say("idle", "");
  }

  /** The viewer's choice goes first from now on, whatever was learnt before. */
  choose(name) {
    this.#order = [name, ...this.#order.filter((other) => other !== name)];
    this.#poor.clear();
    this.stop();
    this.start();
  }

  async #run(turn) {
    const mine = () => turn === this.#turn;
    let wait_ms = WAIT_MS_MIN;
    let played = false;
    if (!this.#order.length) return this.say("failed", "No way to play was named: playOrder takes webrtc, hls, vod.");
    while (mine()) {
      const errors = [];
      for (const name of this.#wanted()) {
        const { error, started } = await this.#attempt(name, mine);
        if (!mine()) return;
        errors.push(error);
        if (started) {
          played = true;
          wait_ms = this.#mayHurry(error) ? 0 : WAIT_MS_MIN;
        }
        if (error.kind === "timeout" || error.kind === "unsupported") this.#poor.add(name);
        else if (started || !error.elsewhere) break;
      }
      if (wait_ms === 0) {
        this.say("interrupted", "The connection to the server was lost. Connecting anew…");
        wait_ms = WAIT_MS_MIN;
        continue;
      }
      this.#explain(errors, played);
      // Viewers of one stream must not come back in step.
      await this.wait(wait_ms * (0.8 + 0.4 * Math.random()));
      wait_ms = Math.min(wait_ms * 1.5, WAIT_MS_MAX);
    }
  }

  /** A connection that had lasted, and is lost, is made anew without a wait: perhaps to another server. */
  #mayHurry(error) {
    const lasted = performance.now() - this.#lost_at > LASTED_MS_MIN;
    this.#lost_at = performance.now();
    return lasted && error.kind === "network";
  }

  /** The order, with the ways that did not work here moved to its end. */
  #wanted() {
    return [...this.#order].sort((a, b) => this.#poor.has(a) - this.#poor.has(b));
  }

  /** Plays by one way until that ends. */
  async #attempt(name, mine) {
    const Way = this.#wayOf(name);
    if (!Way.supported()) return { error: new DeliveryError("unsupported", `This browser has no ${name}.`), started: false };
    const delivery = this.#deliver(name);
    this.#delivery = delivery;
    // While it waits for a stream to come back, the viewer reads why, not "connecting" at every attempt.
    if (this.state === "idle") this.say("connecting", "Connecting…");
    let started = false;
    let over = false;
    const goesOn = () => mine() && !over;
    try {
      const lost = new Promise((resolve) => this.#tend(delivery, goesOn, resolve));
      await delivery.start();
      started = true;
      if (mine()) {
        this.#play();
        const error = await Promise.race([lost, this.#watch(goesOn)]);
        return { error, started };
      }
      return { error: new DeliveryError("stopped", "Stopped."), started };
    } catch (error) {
      const known = error instanceof DeliveryError;
      if (!known) console.warn("headwater:", name, error);
      return { error: known ? error : new DeliveryError("unsupported", error.message), started };
    } finally {
      over = true;
      delivery.stop();
      // By now it may be another one than at the beginning. What is not ours any more, stop() has stopped.
      if (mine()) {
        this.#delivery?.stop();
        this.#delivery = null;
      }
    }
  }

  #deliver(name, more = {}) {
    const url = this.#address(name);
    const credentials = `${this.#app}/turn-credentials`;
    const recorded = name === "vod";
    return new (this.#wayOf(name))({ url, credentials, video: this.#video, targetLatency: this.#target_s, recorded, ...more });
  }

  /** A recording is a file, or a playlist. */
  #wayOf(name) {
    return name === "vod" && this.#id.endsWith(".m3u8") ? Hls : WAYS[name];
  }

  /** `lose` is called with the error when it is gone and nothing has come in its place. */
  #tend(delivery, goesOn, lose) {
    const seat = { delivery, isLost: false, isTaken: () => goesOn() && this.#delivery === delivery };
    seat.follow = (next) => this.#tend(next, goesOn, lose);
    delivery.onlost = async (error) => {
      seat.isLost = true;
      await this.#moving;
      if (seat.isTaken()) lose(error);
    };
    delivery.onmove = () => {
      this.#moving ??= this.#move(seat).finally(() => (this.#moving = null));
    };
  }

  /** The server wants this viewer elsewhere. The next session is made first, and seen once it has a picture; then the old one
   * is left. An attempt that is under way when the old one is lost is the last. */
  async #move(seat) {
    for (let wait_ms = MOVE_MS_MIN; seat.isTaken() && !seat.isLost; wait_ms = Math.min(wait_ms * 2, MOVE_MS_MAX)) {
      const next = this.#deliver("webrtc", { shown: false });
      try {
        await next.start();
        await pictured(next);
        if (seat.isTaken()) {
          seat.follow(next);
          next.takeOver(seat.delivery);
          this.#delivery = next;
          seat.delivery.stop();
          return;
        }
      } catch (error) {
        // A load balancer may not know yet that the old server takes nobody.
        if (!(error instanceof DeliveryError)) console.warn("headwater:", error);
      }
      next.stop();
      await new Promise((resolve) => setTimeout(resolve, wait_ms * (0.8 + 0.4 * Math.random())));
    }
  }

  #address(name) {
    if (name === "vod") return `${this.#app}/${this.#id.split("/").map(encodeURIComponent).join("/")}`;
    const id = encodeURIComponent(this.#id);
    return name === "webrtc" ? `${this.#app}/whep/${id}` : `${this.#app}/streams/${id}.m3u8`;
  }

  #play() {
    const video = this.#video;
    video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return;
      if (video.muted) return this.dispatchEvent(new Event("blocked"));
      // Browsers let a page start silently what it may not start aloud.
      video.muted = true;
      video.play().catch(() => this.dispatchEvent(new Event("blocked")));
    });
  }

  /** Once a second: figures out, and is it still moving? Resolves with the reason why this way has to be given up. */
  async #watch(goesOn) {
    const video = this.#video;
    let delivery = this.#delivery;
    const begun = performance.now();
    let moved_at = begun;
    let asked_at = begun;
    let seen = false;
    let last = { frames: 0, bytes: 0, time: video.currentTime };
    while (goesOn()) {
      if (this.#delivery !== delivery) {
        delivery = this.#delivery;
        last = { frames: 0, bytes: 0, time: last.time };
      }
      const report = await delivery.report();
      if (!report && this.#delivery === delivery) break;
      if (!report) continue;
      const now = { frames: report.frames ?? 0, bytes: report.bytes ?? 0, time: video.currentTime };
      const at = performance.now();
      const media = delivery.name === "webrtc" ? now.bytes > last.bytes : now.time > last.time;
      if (media || video.paused) moved_at = at;
      seen ||= now.frames > 0 || (media && now.time > last.time);
      last = now;
      if (!seen && delivery.name === "webrtc" && media && at - begun > UNDECODED_MS_MAX) {
        return new DeliveryError("unsupported", "WebRTC brings data, but this browser makes no picture of them.");
      }
      if (at - moved_at > SILENT_MS && at - asked_at > ASK_EVERY_MS) {
        asked_at = at;
        const lives = (await delivery.lives?.()) ?? true;
        if (!lives && this.#delivery === delivery) return new DeliveryError("network", "The server has lost this viewer.");
      }
      const stalled = at - moved_at > STALL_MS;
      if (!stalled && seen) this.say("playing", "");
      else if (stalled) this.#stalled();
      this.#learn(stalled);
      this.dispatchEvent(new CustomEvent("report", { detail: report }));
      await this.wait(seen ? REPORT_MS : FIRST_MS);
    }
    return new DeliveryError("stopped", "Stopped.");
  }

  #stalled() {
    if (this.facts?.status === "finished") return this.say("ended", "The stream has ended. It goes on here when it starts again.");
    this.say("interrupted", "The publisher is away. The stream goes on here when it is back.");
  }

  /** Facts are a courtesy: only some viewers may ask, and the picture never waits for them. */
  #learn(stalled) {
    const at = performance.now();
    if (!this.#factsAllowed || at - this.#facts_at < (stalled ? FACTS_STALLED_MS : FACTS_MS) || this.way === "vod") return;
    this.#facts_at = at;
    fetch(`${this.#app}/rest/v2/broadcasts/${encodeURIComponent(this.#id)}`)
      .then(async (response) => {
        if (response.status === 401 || response.status === 403) this.#factsAllowed = false;
        this.facts = response.ok ? await response.json() : null;
      })
      .catch(() => (this.facts = null));
  }

  #explain(errors, played) {
    const kinds = errors.map((error) => error.kind);
    if (kinds.includes("ended") || (played && kinds.includes("absent"))) {
      return this.say("ended", "The stream has ended. It goes on here when it starts again.");
    }
    const telling = errors.find((error) => error.kind === "absent") ?? errors.at(-1);
    if (telling.kind !== "absent") return this.say("failed", `${telling.message} Trying again…`);
    if (this.#order[0] === "vod") return this.say("absent", telling.message);
    this.say("absent", "Nobody is publishing this stream now. It starts here as soon as somebody does.");
  }
}

/** Resolves when there is a picture, or sound where there is nothing else. */
async function pictured(delivery) {
  const begun = performance.now();
  for (;;) {
    const report = await delivery.report();
    if (!report) throw new DeliveryError("stopped", "Stopped.");
    const waited_ms = performance.now() - begun;
    if (report.frames > 0 || (report.audio && !report.video && waited_ms > FACTS_STALLED_MS)) return;
    if (waited_ms > PICTURE_MS_MAX) throw new DeliveryError("timeout", "No picture came in time.");
    await new Promise((resolve) => setTimeout(resolve, PICTURE_MS));
  }
}
