// Plays one broadcast by WebRTC. In: a WHEP address and a <video>. Out: pictures, `onmove` when the server wants this viewer
// elsewhere, and `onlost` once when the connection is gone for good. Deliberately absent: the protocol (session.js), retries,
// fallbacks and moves (player.js decides those), any page.

import { DeliveryError } from "./delivery.js";
import { Session, SessionError, route } from "./session.js";

// A viewer who waits longer than this is better served by HLS.
const CONNECT_MS_MAX = 5000;
// What the server says here is for this viewer alone.
const CONTROL = "headwater/control";

export class Whep {
  name = "webrtc";
  onlost = () => {};
  onmove = () => {};
  #url;
  #credentials;
  #video;
  #shown;
  #media = new MediaStream();
  #pc = null;
  #session = null;
  #last = null;
  #stopped = false;

  /** `credentials` is where TURN credentials are had. Not `shown`: nothing is seen before takeOver(). */
  constructor({ url, credentials, video, shown = true }) {
    this.#url = url;
    this.#credentials = credentials;
    this.#video = video;
    this.#shown = shown;
  }

  static supported() {
    return typeof RTCPeerConnection === "function";
  }

  /** Resolves when the transport is connected; media follow when the publisher sends some. */
  async start() {
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.#pc = pc;
    this.#session = new Session({ url: this.#url, credentials: this.#credentials, pc });
    this.#session.onlost = (error) => this.onlost(deliveryError(error));
    pc.addEventListener("track", ({ track }) => {
      this.#media.addTrack(track);
      if (this.#shown && this.#video.srcObject !== this.#media) this.#video.srcObject = this.#media;
    });
    pc.createDataChannel(CONTROL).addEventListener("message", ({ data }) => this.#heed(data));
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });
    try {
      await this.#session.open({ adapt: inStereo, signal: AbortSignal.timeout(CONNECT_MS_MAX) });
    } catch (error) {
      throw error instanceof SessionError ? deliveryError(error) : error;
    }
  }

  /** Whether the server may still have this viewer. */
  async lives() {
    return this.#session.lives();
  }

  /** In the place of another session, between two pictures: the <video> keeps its stream, and sees other tracks in it. */
  takeOver(other) {
    const stream = other.#media;
    const old = stream.getTracks();
    for (const track of this.#media.getTracks()) stream.addTrack(track);
    for (const track of old) stream.removeTrack(track);
    this.#media = stream;
    this.#shown = true;
    other.#shown = false;
  }

  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    if (this.#shown) this.#video.srcObject = null;
    this.#session?.end();
  }

  #heed(text) {
    if (!this.#stopped && JSON.parse(text).definition === "server_will_stop") this.onmove();
  }

  /** What is playing, as far as the browser knows. Rates are since the previous call. */
  async report() {
    if (!this.#pc || this.#stopped) return null;
    const stats = await this.#pc.getStats();
    const now = { at: performance.now(), bytes: 0, frames: 0, emitted: 0, waited: 0 };
    const report = { protocol: "WebRTC" };
    const { path, round_trip_ms } = route(stats);
    for (const entry of stats.values()) {
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
    report.path = path;
    if (before) {
      const seconds = (now.at - before.at) / 1000;
      report.fps = (now.frames - before.frames) / seconds;
      report.bits_per_s = ((now.bytes - before.bytes) * 8) / seconds;
      if (now.emitted > before.emitted) {
        const buffer = (now.waited - before.waited) / (now.emitted - before.emitted);
        report.delay_ms = 1000 * buffer + (round_trip_ms || 0) / 2;
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

/** What a refusal means for a viewer. */
function deliveryError({ kind, status, message }) {
  if (kind !== "answer") return new DeliveryError(kind, message);
  if (status === 404) return new DeliveryError("absent", "The stream is not live.");
  if (status === 503) return new DeliveryError("busy", "The server takes no more viewers now.");
  if (status === 401 || status === 403) return new DeliveryError("refused", "The server refuses to play this stream.");
  return new DeliveryError("unsupported", `WebRTC was refused: ${message}`);
}
