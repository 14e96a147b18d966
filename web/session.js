// One WebRTC session by WHIP (RFC 9725) or WHEP (draft-ietf-wish-whep): offer by POST, candidates and ICE restarts by PATCH,
// the end by DELETE. In: an endpoint and a RTCPeerConnection that knows what it wants. Out: a connection that is kept alive
// over a change of network, and `onlost` once when it is gone for good. Deliberately absent: what is sent or received
// (whip.js, whep.js), and trying again (publisher.js, player.js).

// A longer outage than this is no short one: ICE starts anew, perhaps over another network.
const REPAIR_AFTER_MS = 2000;
const RESTARTED_MS_MAX = 4000;
const REPAIR_MS_MAX = 12000;
const AGAIN_MS = 1000;
const PATCH_MS_MAX = 4000;
const END_MS_MAX = 2000;
const CREDENTIALS_MS_MAX = 2000;
// Candidates that are found together are told together.
const TRICKLE_MS = 50;

const SDP = "application/sdp";
const FRAGMENT = "application/trickle-ice-sdpfrag";

//   network  the server does not answer
//   answer   it does, with a status and a sentence
//   timeout  media do not get through
//   stopped  our own end() came first
export class SessionError extends Error {
  constructor(kind, message, { status = 0, retryAfter_s = 0 } = {}) {
    super(message);
    this.name = "SessionError";
    this.kind = kind;
    this.status = status;
    this.retryAfter_s = retryAfter_s;
  }
}

export class Session {
  onlost = () => {};
  #url;
  #pc;
  #credentials;
  #headers;
  #resource = null;
  #etag = null;
  #found = [];
  #trickling = null;
  #open = false;
  #repairing = false;
  #hurry = () => {};
  #ended = false;

  /** `credentials` is where fresh TURN credentials are had; `token` goes with every request. */
  constructor({ url, pc, credentials, token }) {
    this.#url = url;
    this.#pc = pc;
    this.#credentials = credentials;
    this.#headers = token ? { Authorization: `Bearer ${token}` } : {};
  }

  /** Resolves when media can flow. `adapt` may change the offer; `headers` go with the POST. */
  async open({ adapt = (sdp) => sdp, headers = {}, signal }) {
    const pc = this.#pc;
    const offer = await pc.createOffer();
    const sdp = adapt(offer.sdp);
    const response = await this.#ask(this.#url, "POST", { headers: { "Content-Type": SDP, Accept: SDP, ...headers }, body: sdp, signal });
    const answer = await response.text();
    const location = response.headers.get("Location");
    if (location) this.#resource = new URL(location, response.url).href;
    this.#etag = response.headers.get("ETag");
    if (this.#ended) {
      // The answer came after end(): the server has a session that nobody wants.
      this.#delete();
      throw new SessionError("stopped", "Stopped.");
    }
    // Gathering begins with setLocalDescription(), so the servers of the answer's Link headers are in time for it.
    this.#use(linkedServers(response.headers.get("Link")));
    pc.addEventListener("icecandidate", ({ candidate }) => this.#trickle(candidate));
    // A browser that takes no changed offer plays by its own.
    await pc.setLocalDescription({ type: "offer", sdp }).catch(() => pc.setLocalDescription(offer));
    await pc.setRemoteDescription({ type: "answer", sdp: answer });
    await this.#connected(signal);
    this.#open = true;
    pc.addEventListener("connectionstatechange", () => this.#watch());
    this.#watch();
  }

  get connected() {
    return this.#pc.connectionState === "connected";
  }

  /** After a change of network or a sleep: does not wait until the browser notices that the old way is gone. */
  renew() {
    this.#hurry();
    this.#repair(0);
  }

  /** Whether the server may still have this session. Candidates that it was told of already change nothing there. */
  async lives() {
    if (!this.#resource || this.#ended) return false;
    const headers = { "Content-Type": FRAGMENT, "If-Match": this.#etag ?? "*" };
    const body = fragment(this.#pc.localDescription.sdp, ["a=end-of-candidates"]);
    try {
      await this.#ask(this.#resource, "PATCH", { headers, body, signal: AbortSignal.timeout(PATCH_MS_MAX) });
      return true;
    } catch (error) {
      return error.status !== 404;
    }
  }

  /** Resolves when the server knows, or cannot be told. */
  async end() {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#trickling);
    this.#hurry();
    // The session is ended before the connection: a server that sees the connection close first has no session to end.
    await this.#delete();
    this.#pc.close();
  }

  #delete() {
    const resource = this.#resource;
    this.#resource = null;
    if (!resource) return null;
    // keepalive: also when the page is going away.
    const request = { method: "DELETE", headers: this.#headers, keepalive: true, signal: AbortSignal.timeout(END_MS_MAX) };
    return fetch(resource, request).catch(() => {});
  }

  async #ask(url, method, { headers, body, signal }) {
    let response;
    try {
      response = await fetch(url, { method, headers: { ...this.#headers, ...headers }, body, signal });
    } catch (error) {
      throw new SessionError(error.name === "TimeoutError" ? "timeout" : "network", "The server does not answer.");
    }
    if (response.ok) return response;
    const text = await response.text().catch(() => "");
    const retryAfter_s = Number(response.headers.get("Retry-After")) || 0;
    throw new SessionError("answer", sentence(text, response.status), { status: response.status, retryAfter_s });
  }

  #use(iceServers) {
    if (!iceServers.length) return;
    try {
      this.#pc.setConfiguration({ ...this.#pc.getConfiguration(), iceServers });
    } catch (error) {
      // A server that this browser does not understand is no reason to give up the direct way.
      console.warn("headwater: ICE servers", error);
    }
  }

  #connected(signal) {
    const pc = this.#pc;
    return new Promise((resolve, reject) => {
      const fail = (message) => reject(new SessionError(this.#ended ? "stopped" : "timeout", message));
      const check = () => {
        if (pc.connectionState === "connected") resolve();
        if (pc.connectionState === "failed") fail("WebRTC cannot get through this network.");
        if (pc.connectionState === "closed") fail("Stopped.");
      };
      pc.addEventListener("connectionstatechange", check);
      signal.addEventListener("abort", () => fail("WebRTC did not connect in time."));
      this.#hurry = () => this.#ended && fail("Stopped.");
      check();
    });
  }

  // Candidates (RFC 9725 section 4.3.2).

  #trickle(candidate) {
    // An empty one ends the candidates of one section; null ends them all.
    if (this.#ended || candidate?.candidate === "") return;
    this.#found.push(candidate ? `a=${candidate.candidate}` : "a=end-of-candidates");
    this.#trickling ??= setTimeout(() => this.#tell(), TRICKLE_MS);
  }

  async #tell() {
    const lines = this.#found.splice(0);
    if (lines.length && this.#resource) {
      const headers = { "Content-Type": FRAGMENT, "If-Match": this.#etag ?? "*" };
      const body = fragment(this.#pc.localDescription.sdp, lines);
      // A server that takes none learns them from our connectivity checks.
      await this.#ask(this.#resource, "PATCH", { headers, body, signal: AbortSignal.timeout(PATCH_MS_MAX) }).catch(() => {});
    }
    this.#trickling = this.#found.length && !this.#ended ? setTimeout(() => this.#tell(), TRICKLE_MS) : null;
  }

  // Repair: ICE restarts (RFC 9725 section 4.3.3) until one connects, or the server has no such session any more.

  #watch() {
    const state = this.#pc.connectionState;
    if (state === "disconnected") this.#repair(REPAIR_AFTER_MS);
    if (state === "failed") this.#repair(0);
    if (state === "closed") this.#lose("The connection to the server was closed.");
  }

  async #repair(after_ms) {
    if (!this.#open || this.#repairing || this.#ended) return;
    this.#repairing = true;
    const deadline = performance.now() + after_ms + REPAIR_MS_MAX;
    try {
      await this.#settled(after_ms);
      // Without a wait, "connected" is what the browser has not noticed yet.
      let again = !after_ms || !this.connected;
      while (again && !this.#ended) {
        const restarted = await this.#restart();
        await this.#settled(restarted ? RESTARTED_MS_MAX : AGAIN_MS);
        again = !this.connected;
        if (again && performance.now() > deadline) throw new SessionError("network", "The connection to the server was lost.");
      }
    } catch (error) {
      this.#lose(error.message);
    } finally {
      this.#repairing = false;
    }
  }

  /** Whether the server took it; throws when it never will. */
  async #restart() {
    const pc = this.#pc;
    if (!this.#resource) throw new SessionError("network", "The connection to the server was lost.");
    this.#use(await freshServers(this.#credentials, this.#headers));
    const offer = await pc.createOffer({ iceRestart: true });
    const headers = { "Content-Type": FRAGMENT, "If-Match": "*" };
    const request = { headers, body: fragment(offer.sdp, []), signal: AbortSignal.timeout(PATCH_MS_MAX) };
    let response;
    try {
      response = await this.#ask(this.#resource, "PATCH", request);
    } catch (error) {
      // Without a network, or a server that is busy, there is nothing wrong with the session.
      if (error.kind !== "answer" || error.status >= 500) return false;
      throw error;
    }
    const theirs = await response.text();
    if (this.#ended) return false;
    this.#etag = response.headers.get("ETag");
    this.#found = [];
    const answer = { type: "answer", sdp: renewed(pc.remoteDescription.sdp, theirs) };
    await pc.setLocalDescription(offer);
    await pc.setRemoteDescription(answer);
    return true;
  }

  /** Resolves when connected, hurried, ended, or after so long. */
  #settled(ms) {
    const pc = this.#pc;
    if (!ms) return null;
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        pc.removeEventListener("connectionstatechange", check);
        resolve();
      };
      const check = () => this.connected && done();
      const timer = setTimeout(done, ms);
      pc.addEventListener("connectionstatechange", check);
      this.#hurry = done;
      check();
    });
  }

  #lose(message) {
    if (this.#ended) return;
    this.onlost(new SessionError("network", message));
  }
}

/** The pair of candidates that media go over: "UDP", "TCP" or "a relay (…)", and its round trip; empty while there is none. */
export function route(stats) {
  let pair;
  for (const entry of stats.values()) {
    if (entry.type === "transport" && entry.selectedCandidatePairId) pair = stats.get(entry.selectedCandidatePairId);
    // Firefox has no transport entry.
    if (entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded") pair ??= entry;
  }
  if (!pair) return {};
  const local = stats.get(pair.localCandidateId);
  const protocol = (local?.relayProtocol ?? local?.protocol ?? "udp").toUpperCase();
  const relayed = local?.candidateType === "relay";
  return { path: relayed ? `a relay (${protocol})` : protocol, round_trip_ms: 1000 * (pair.currentRoundTripTime ?? NaN) };
}

/** ICE servers as Link headers tell them (RFC 9725 section 4.6); fetch() joins several headers with commas. */
export function linkedServers(header) {
  const servers = [];
  for (const [, address, rest] of (header ?? "").matchAll(/<([^>]*)>((?:\s*;\s*[\w-]+\s*=\s*(?:"(?:\\.|[^"\\])*"|[^\s;,"]+))*)/g)) {
    const words = Object.fromEntries(
      [...rest.matchAll(/([\w-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s;,"]+))/g)].map(([, name, quoted, bare]) => [
        name.toLowerCase(),
        bare ?? quoted.replace(/\\(.)/g, "$1"),
      ]),
    );
    if (words.rel !== "ice-server") continue;
    const server = { urls: [address] };
    if (words.username) Object.assign(server, { username: words.username, credential: words.credential });
    servers.push(server);
  }
  return servers;
}

/** TURN credentials expire: those of the answer are no good for a restart an hour later. A server without any says 404. */
async function freshServers(address, headers) {
  try {
    const response = await fetch(address, { headers, signal: AbortSignal.timeout(CREDENTIALS_MS_MAX) });
    return response.ok ? ((await response.json()).iceServers ?? []) : [];
  } catch {
    return [];
  }
}

/** RFC 8840 section 9, of the one media section that all others are bundled with. */
export function fragment(sdp, lines) {
  const find = (pattern) => pattern.exec(sdp)?.[0];
  const head = [/^a=group:BUNDLE.*$/m, /^m=.*$/m, /^a=mid:.*$/m, /^a=ice-ufrag:.*$/m, /^a=ice-pwd:.*$/m].map(find);
  return [...head.filter(Boolean), ...lines].map((line) => `${line}\r\n`).join("");
}

/** The answer as it would be after an ICE restart: the fragment's credentials and candidates in the place of its own. */
export function renewed(answer, fragment) {
  const of = (name) => new RegExp(`^a=${name}:.*$`, "m").exec(fragment)?.[0];
  const [ufrag, password] = [of("ice-ufrag"), of("ice-pwd")];
  if (!ufrag || !password) throw new SessionError("network", "The server's answer to the ICE restart has no credentials.");
  let sdp = answer.replace(/^a=ice-ufrag:.*$/gm, ufrag).replace(/^a=ice-pwd:.*$/gm, password);
  const candidates = fragment.match(/^a=candidate:.*$/gm);
  if (candidates) {
    sdp = sdp.replace(/^a=(candidate:.*|end-of-candidates)\r?\n/gm, "");
    // Those of the bundle's first section are everybody's.
    sdp = sdp.replace(/^a=mid:.*$/m, ["$&", ...candidates].join("\r\n"));
  }
  return sdp;
}

/** The server's own words, as one sentence for who reads the page. */
function sentence(text, status) {
  const words = text.trim().slice(0, 300);
  if (!words || words.startsWith("<")) return `The server answered ${status}.`;
  const begun = words.replace(/^[a-z](?=[a-z]*[ ,])/, (letter) => letter.toUpperCase());
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
