// Plays one broadcast by WebRTC. In: a WHEP address (draft-ietf-wish-whep) and a <video>. Out: pictures, and `onlost` once
// when the connection is gone for good. Deliberately absent: retries and fallbacks (player.js decides those) and any page.

import { DeliveryError } from "./delivery.js";

// A viewer who waits longer than this is better served by HLS.
const CONNECT_MS_MAX = 5000;
// An offer without every candidate still works: the server is reachable and learns ours from the checks.
const GATHER_MS_MAX = 1000;
// ICE calls a connection `disconnected` for seconds before it says `failed`; a network change recovers in between.
const DISCONNECTED_MS_MAX = 6000;

export class Whep {
  name = "webrtc";
  onlost = () => {};
  #url;
  #video;
  #pc = null;
  #resource = null;
  #last = null;
  #timer = 0;
  #stopped = false;

  constructor({ url, video }) {
    this.#url = url;
    this.#video = video;
  }

  static supported() {
    return typeof RTCPeerConnection === "function";
  }

  /** Resolves when the transport is connected; media follow when the publisher sends some. */
  async start() {
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.#pc = pc;
    const media = new MediaStream();
    pc.addEventListener("track", ({ track }) => media.addTrack(track));
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });

    const deadline = AbortSignal.timeout(CONNECT_MS_MAX);
    const offer = await pc.createOffer();
    // A browser that takes no changed offer plays mono.
    await pc.setLocalDescription({ type: "offer", sdp: inStereo(offer.sdp) }).catch(() => pc.setLocalDescription(offer));
    await gathered(pc, GATHER_MS_MAX);
    const answer = await this.#post(pc.localDescription.sdp, deadline);
    if (this.#stopped) {
      // The answer came after stop(): the server has a session that nobody wants.
      this.#release();
      throw new DeliveryError("stopped", "Stopped.");
    }
    await pc.setRemoteDescription({ type: "answer", sdp: answer });
    this.#video.srcObject = media;
    await connected(pc, deadline);
    pc.addEventListener("connectionstatechange", () => this.#watch());
  }

  async #post(sdp, signal) {
    let response;
    try {
      const headers = { "Content-Type": "application/sdp", Accept: "application/sdp" };
      response = await fetch(this.#url, { method: "POST", headers, body: sdp, signal });
    } catch (error) {
      const kind = error.name === "TimeoutError" ? "timeout" : "network";
      throw new DeliveryError(kind, "The server does not answer.");
    }
    const body = await response.text().catch(() => "");
    if (response.status === 404) throw new DeliveryError("absent", "The stream is not live.");
    if (response.status === 503) throw new DeliveryError("busy", "The server takes no more viewers now.");
    if (response.status === 401 || response.status === 403) throw new DeliveryError("refused", "The server refuses to play this stream.");
    if (response.status !== 201) {
      throw new DeliveryError("unsupported", `WebRTC was refused: ${response.status} ${body.slice(0, 200)}`.trim());
    }
    const location = response.headers.get("Location");
    if (location) this.#resource = new URL(location, response.url).href;
    return body;
  }

  #watch() {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    const state = this.#pc.connectionState;
    if (state === "failed" || state === "closed") this.#lose();
    if (state === "disconnected") this.#timer = setTimeout(() => this.#lose(), DISCONNECTED_MS_MAX);
  }

  #lose() {
    if (this.#stopped) return;
    this.onlost(new DeliveryError("network", "The connection to the server was lost."));
  }

  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#release();
  }

  #release() {
    clearTimeout(this.#timer);
    this.#video.srcObject = null;
    const close = () => this.#pc?.close();
    // The session is ended before the connection: a server that sees the connection close first has no session to end.
    // keepalive: also when the page is going away.
    if (this.#resource) fetch(this.#resource, { method: "DELETE", keepalive: true }).then(close, close);
    else close();
    this.#resource = null;
  }

  /** What is playing, as far as the browser knows. Rates are since the previous call. */
  async report() {
    if (!this.#pc || this.#stopped) return null;
    const stats = await this.#pc.getStats();
    const now = { at: performance.now(), bytes: 0, frames: 0, emitted: 0, waited: 0 };
    const report = { protocol: "WebRTC" };
    let pair;
    for (const entry of stats.values()) {
      if (entry.type === "transport" && entry.selectedCandidatePairId) pair = stats.get(entry.selectedCandidatePairId);
      if (entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded") pair ??= entry;
      if (entry.type !== "inbound-rtp") continue;
      now.bytes += entry.bytesReceived ?? 0;
      const codec = stats.get(entry.codecId)?.mimeType?.split("/")[1];
      if (entry.kind === "video") {
        now.frames = entry.framesDecoded ?? 0;
        report.video = codec;
        report.width = entry.frameWidth;
        report.height = entry.frameHeight;
      } else {
        report.audio = codec;
      }
      // The picture's buffer decides the delay; without a picture it is the sound's.
      if (entry.kind === "video" || !now.emitted) {
        now.emitted = entry.jitterBufferEmittedCount ?? 0;
        now.waited = entry.jitterBufferDelay ?? 0;
      }
    }
    const before = this.#last;
    this.#last = now;
    report.bytes = now.bytes;
    report.frames = now.frames;
    report.udp = stats.get(pair?.localCandidateId)?.protocol !== "tcp";
    if (before) {
      const seconds = (now.at - before.at) / 1000;
      report.fps = (now.frames - before.frames) / seconds;
      report.bits_per_s = ((now.bytes - before.bytes) * 8) / seconds;
      if (now.emitted > before.emitted) {
        const buffer = (now.waited - before.waited) / (now.emitted - before.emitted);
        report.delay_ms = 1000 * (buffer + (pair?.currentRoundTripTime ?? 0) / 2);
      }
    }
    return report;
  }
}

// Chromium mixes Opus down to one channel unless the offer asks for two (RFC 7587 section 6.1).
export function inStereo(sdp) {
  const payload = /^a=rtpmap:(\d+) opus\/48000\/2/im.exec(sdp)?.[1];
  return sdp.replace(new RegExp(`^a=fmtp:${payload} (?!(?:.*;)?\\s*stereo=)[^\\r\\n]*`, "m"), "$&;stereo=1");
}

function gathered(pc, ms) {
  return new Promise((resolve) => {
    const check = () => {
      if (pc.iceGatheringState === "complete") resolve();
    };
    pc.addEventListener("icegatheringstatechange", check);
    setTimeout(resolve, ms);
    check();
  });
}

function connected(pc, deadline) {
  return new Promise((resolve, reject) => {
    const check = () => {
      if (pc.connectionState === "connected") resolve();
      if (pc.connectionState === "failed") reject(new DeliveryError("timeout", "WebRTC cannot get through this network."));
      if (pc.connectionState === "closed") reject(new DeliveryError("stopped", "Stopped."));
    };
    pc.addEventListener("connectionstatechange", check);
    deadline.addEventListener("abort", () => reject(new DeliveryError("timeout", "WebRTC did not connect in time.")));
    check();
  });
}
