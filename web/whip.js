// Publishes one broadcast by WebRTC. In: a WHIP address (RFC 9725), tracks, and how they shall be sent. Out: figures, and
// `onlost` once when the connection is gone for good. Deliberately absent: the protocol (session.js), trying again
// (publisher.js), and where tracks come from (devices.js).

import { Session, route } from "./session.js";

const CONNECT_MS_MAX = 10000;
const AUDIO_BITS_PER_S = 96000;
// What a layer's bitrate is of the whole: a quarter of the pixels needs about a third of the bits.
const LAYERS = [
  { rid: "low", scaleResolutionDownBy: 4, share: 0.08 },
  { rid: "middle", scaleResolutionDownBy: 2, share: 0.25 },
  { rid: "high", scaleResolutionDownBy: 1, share: 0.67 },
];
const ONLY = [{ scaleResolutionDownBy: 1, share: 1 }];
// What goes along with a codec rather than being one (RFC 4588, 2198, 5109, 8627).
const COMPANIONS = ["rtx", "red", "ulpfec", "flexfec-03"];

/** The video codecs that this browser can send, as its capabilities name them: H264, VP8, … */
export function videoCodecs() {
  const codecs = globalThis.RTCRtpSender?.getCapabilities?.("video")?.codecs ?? [];
  return [...new Set(codecs.map(name))].filter((codec) => !COMPANIONS.includes(codec.toLowerCase()));
}

function name(codec) {
  return codec.mimeType.split("/")[1];
}

export class Whip {
  onlost = () => {};
  #pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  #session;
  #senders = {};
  #layers;
  #last = null;

  /** `codec` is one of videoCodecs(), or empty for the browser's own choice. */
  constructor({ url, credentials, token, video, audio, codec, simulcast, limit_bits_per_s }) {
    this.#session = new Session({ url, credentials, token, pc: this.#pc });
    this.#session.onlost = (error) => this.onlost(error);
    this.#layers = simulcast ? LAYERS : ONLY;
    const sendEncodings = this.#layers.map((layer) => ({ ...encoding(layer, limit_bits_per_s), rid: layer.rid }));
    // Both are offered even when only one is sent: the other can be switched on without a new session.
    const picture = this.#pc.addTransceiver(video ?? "video", { direction: "sendonly", sendEncodings });
    const sound = this.#pc.addTransceiver(audio ?? "audio", { direction: "sendonly", sendEncodings: [{ maxBitrate: AUDIO_BITS_PER_S }] });
    if (codec) prefer(picture, codec);
    this.#senders = { video: picture.sender, audio: sound.sender };
  }

  /** With `replace`, whoever publishes under this name now is replaced; else the server refuses. */
  async start({ replace }) {
    // RFC 9110 section 13.1.2: only if there is none yet.
    const headers = replace ? {} : { "If-None-Match": "*" };
    await this.#session.open({ headers, signal: AbortSignal.timeout(CONNECT_MS_MAX) });
  }

  get connected() {
    return this.#session.connected;
  }

  renew() {
    this.#session.renew();
  }

  end() {
    return this.#session.end();
  }

  /** Another track, or none, from the next frame on. */
  send(kind, track) {
    return this.#senders[kind].replaceTrack(track);
  }

  /** Takes hold at once. */
  async limit(bits_per_s) {
    const parameters = this.#senders.video.getParameters();
    parameters.encodings.forEach((one, index) => Object.assign(one, encoding(this.#layers[index], bits_per_s)));
    await this.#senders.video.setParameters(parameters);
  }

  /** What is being sent. Rates and loss are since the previous call. */
  async report() {
    const stats = await this.#pc.getStats();
    const now = { at: performance.now(), bytes: 0, packets: 0, lost: 0 };
    const report = { ...route(stats), layers: 0 };
    let pixels = 0;
    for (const entry of stats.values()) {
      if (entry.type === "remote-inbound-rtp") {
        now.lost += entry.packetsLost ?? 0;
        if (!(report.round_trip_ms >= 0)) report.round_trip_ms = 1000 * entry.roundTripTime;
      }
      if (entry.type !== "outbound-rtp") continue;
      now.bytes += entry.bytesSent ?? 0;
      now.packets += entry.packetsSent ?? 0;
      if (!entry.bytesSent) continue;
      const codec = stats.get(entry.codecId)?.mimeType?.split("/")[1];
      if (entry.kind === "audio") report.audio = codec;
      // A layer that the browser has switched off for want of bandwidth sends no frames.
      if (entry.kind !== "video" || !(entry.framesPerSecond > 0)) continue;
      report.layers += 1;
      if (entry.frameWidth * entry.frameHeight < pixels) continue;
      pixels = entry.frameWidth * entry.frameHeight;
      Object.assign(report, { video: codec, width: entry.frameWidth, height: entry.frameHeight, fps: entry.framesPerSecond });
      report.limited_by = entry.qualityLimitationReason;
    }
    const before = this.#last;
    this.#last = now;
    if (before) {
      report.bits_per_s = ((now.bytes - before.bytes) * 8000) / (now.at - before.at);
      const packets = now.packets - before.packets;
      // Receivers report seldom: the counts are of different moments.
      if (packets > 0) report.loss = Math.min(1, Math.max(0, now.lost - before.lost) / packets);
    }
    return report;
  }
}

function encoding({ scaleResolutionDownBy, share }, limit_bits_per_s) {
  // One layer is one stream: without L1T1, Chromium packs VP9's layers into a single one (SVC).
  return { scaleResolutionDownBy, maxBitrate: Math.round(share * limit_bits_per_s), scalabilityMode: "L1T1" };
}

/** Only this one is offered: a server takes it or says that it can't. */
function prefer(transceiver, codec) {
  const codecs = RTCRtpSender.getCapabilities("video").codecs;
  transceiver.setCodecPreferences?.(codecs.filter((one) => name(one) === codec || COMPANIONS.includes(name(one).toLowerCase())));
}
