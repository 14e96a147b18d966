// Keeps one broadcast on the air. In: an app, and for each start an id, settings and tracks. Out: events `state` (what the
// publisher should be told) and `report` (figures, once a second). Deliberately absent: everything one sees (publish.js),
// devices (devices.js) and the protocol (whip.js).
//
// States: idle, connecting, live, interrupted (it was live and comes back by itself), waiting (it was not live yet and tries
// again), and three that wait for the user: taken (somebody else publishes under this name), refused, failed.

import { Ongoing } from "./ongoing.js";
import { SessionError } from "./session.js";
import { Whip } from "./whip.js";

const REPORT_MS = 1000;
// A timer that is this late was not late: the machine slept.
const SLEPT_MS = 10000;
const WAIT_MS_MIN = 500;
const WAIT_MS_MAX = 10000;

export class Publisher extends Ongoing {
  /** Whether the other publisher would give way, in the state taken. */
  replaceable = false;
  #app;
  #turn = 0;
  #whip = null;
  #sending = { video: null, audio: null };
  #limit_bits_per_s = 0;

  /** `app` is the address of the application, without a slash at its end. */
  constructor({ app }) {
    super();
    this.#app = app;
  }

  /** Something is being sent, or is going to be without the user's doing. */
  get busy() {
    return ["connecting", "live", "interrupted", "waiting"].includes(this.state);
  }

  /** `codec` and `simulcast` as in whip.js; with `replace`, a publisher of that name is replaced. */
  start({ id, token, codec, simulcast, replace = false }) {
    this.#run(++this.#turn, { id, token, codec, simulcast, replace });
  }

  /** Resolves when the server knows. */
  async stop() {
    this.#turn++;
    const whip = this.#whip;
    this.#whip = null;
    this.hurry();
    this.say("idle", "");
    await whip?.end();
  }

  /** What is sent from now on, whether it is live or not. */
  async send(kind, track) {
    this.#sending[kind] = track;
    await this.#whip?.send(kind, track);
  }

  async limit(bits_per_s) {
    this.#limit_bits_per_s = bits_per_s;
    await this.#whip?.limit(bits_per_s);
  }

  /** The network is another one now. */
  renew() {
    this.hurry();
    this.#whip?.renew();
  }

  async #run(turn, settings) {
    const mine = () => turn === this.#turn;
    let wait_ms = WAIT_MS_MIN;
    let wasLive = false;
    let { replace } = settings;
    this.say("connecting", "Connecting…");
    while (mine()) {
      const { error, started } = await this.#attempt({ ...settings, replace }, mine);
      if (!mine()) return;
      if (started) {
        wasLive = true;
        // Asked once is not asked for ever: whoever came after us stays.
        replace = false;
        wait_ms = WAIT_MS_MIN;
      }
      if (!started && this.#giveUp(error)) return;
      this.say(wasLive ? "interrupted" : "waiting", `${error.message} Trying again…`);
      // Publishers of one server must not come back in step.
      await this.wait(Math.max(wait_ms * (0.6 + 0.8 * Math.random()), 1000 * (error.retryAfter_s ?? 0)));
      wait_ms = Math.min(wait_ms * 2, WAIT_MS_MAX);
    }
  }

  /** Sends until that ends, and lets go of the session before it returns. */
  async #attempt({ id, token, codec, simulcast, replace }, mine) {
    let whip = null;
    let started = false;
    try {
      whip = new Whip({
        url: `${this.#app}/whip/${encodeURIComponent(id)}`,
        credentials: `${this.#app}/turn-credentials`,
        token,
        codec,
        simulcast,
        limit_bits_per_s: this.#limit_bits_per_s,
        ...this.#sending,
      });
      this.#whip = whip;
      const lost = new Promise((resolve) => (whip.onlost = resolve));
      await whip.start({ replace });
      started = true;
      const error = await Promise.race([lost, this.#watch(whip, mine)]);
      return { error, started };
    } catch (error) {
      if (!(error instanceof SessionError)) console.warn("headwater:", error);
      return { error, started };
    } finally {
      if (this.#whip === whip) this.#whip = null;
      // The server must not take our next session for somebody else's.
      await whip?.end();
    }
  }

  /** Once a second: figures out, and is it still connected? */
  async #watch(whip, mine) {
    let looked_at = Date.now();
    while (mine() && this.#whip === whip) {
      if (Date.now() - looked_at > SLEPT_MS) whip.renew();
      looked_at = Date.now();
      if (whip.connected) this.say("live", "");
      else this.say("interrupted", "The connection is being repaired.");
      this.dispatchEvent(new CustomEvent("report", { detail: await whip.report() }));
      await this.wait(REPORT_MS);
    }
    return new SessionError("stopped", "Stopped.");
  }

  /** Whether trying again without the user is useless. */
  #giveUp(error) {
    if (!(error instanceof SessionError)) return this.#end("failed", error.message);
    const { kind, status, message } = error;
    if (kind !== "answer" || status >= 500 || status === 408 || status === 429) return false;
    // 412 says that we asked not to replace anybody, 409 that nobody may be.
    this.replaceable = status === 412;
    if (status === 409 || status === 412) return this.#end("taken", message);
    if (status === 401 || status === 403) return this.#end("refused", message);
    return this.#end("failed", message);
  }

  #end(state, message) {
    this.say(state, message);
    return true;
  }
}
