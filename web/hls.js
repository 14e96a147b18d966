// Plays one broadcast by HLS, low-latency where server and browser can, or what was kept of one. In: a playlist address and a
// <video>. Out: pictures, and `onlost` once when it cannot go on. Deliberately absent: retries of a stream that is gone
// (player.js).
//
// hls.js is asked first and the browser's own player second: Chromium claims to play playlists and then does not.

import { DeliveryError } from "./delivery.js";

const START_MS_MAX = 15000;
const PROBE_MS_MAX = 5000;

export class Hls {
  name = "hls";
  onlost = () => {};
  #url;
  #video;
  #target_s;
  #recorded;
  #hls = null;
  #details = null;
  #level = null;
  #last = null;
  #abort = new AbortController();

  /** `recorded`: it is over, and is played from its beginning to its end. */
  constructor({ url, video, targetLatency, recorded = false }) {
    this.#url = url;
    this.#video = video;
    this.#target_s = targetLatency;
    this.#recorded = recorded;
    if (recorded) this.name = "vod";
  }

  static supported() {
    return typeof MediaSource === "function" || typeof ManagedMediaSource === "function" || native();
  }

  /** Resolves with the first data to play. */
  async start() {
    await this.#probe();
    const library = (await import("./hls.light.min.mjs")).default;
    if (this.#abort.signal.aborted) throw new DeliveryError("stopped", "Stopped.");
    if (library.isSupported()) await this.#startLibrary(library);
    else if (native()) await this.#startNative();
    else throw new DeliveryError("unsupported", "This browser cannot play HLS.");
    if (this.#recorded) return;
    this.#video.addEventListener("ended", () => this.#lose("ended", "The stream has ended."), { signal: this.#abort.signal });
  }

  /** One small question before the machinery starts: a stream that is not there is the commonest failure. */
  async #probe() {
    let response;
    try {
      response = await fetch(this.#url, { method: "HEAD", signal: AbortSignal.timeout(PROBE_MS_MAX) });
    } catch {
      throw new DeliveryError("network", "The server does not answer.");
    }
    if (response.status === 404) throw this.#absent();
    if (response.status === 410) throw new DeliveryError("ended", "The stream has ended.");
    if (response.status === 401 || response.status === 403) throw new DeliveryError("refused", "The server refuses to play this stream.");
    if (response.status === 503) throw new DeliveryError("busy", "The server takes no more viewers now.");
    if (!response.ok) throw new DeliveryError("unsupported", `HLS was refused: ${response.status}.`);
  }

  #absent() {
    return new DeliveryError("absent", this.#recorded ? "There is no such recording." : "The stream is not live.");
  }

  #startLibrary(library) {
    // The worker would come from a blob: address; repackaging is not needed for fragmented MP4, so go without.
    const settings = { lowLatencyMode: true, enableWorker: false, backBufferLength: 30, maxLiveSyncPlaybackRate: 1.1 };
    if (this.#target_s > 0) settings.liveSyncDuration = this.#target_s;
    const hls = new library(settings);
    this.#hls = hls;
    const { Events, ErrorTypes, ErrorDetails } = library;
    let recovered_at = -Infinity;
    return new Promise((resolve, reject) => {
      let started = false;
      const fail = (kind, message) => {
        if (started) this.#lose(kind, message);
        else reject(new DeliveryError(kind, message));
      };
      const timer = setTimeout(() => fail("timeout", "HLS did not start in time."), START_MS_MAX);
      this.#abort.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new DeliveryError("stopped", "Stopped."));
      });
      hls.on(Events.LEVEL_LOADED, (_, data) => {
        this.#details = data.details;
        // Joining something that is over would replay its tail as if it were live.
        if (!started && !data.details.live && !this.#recorded) fail("ended", "The stream has ended.");
      });
      hls.on(Events.LEVEL_SWITCHED, (_, data) => (this.#level = hls.levels[data.level]));
      hls.on(Events.FRAG_BUFFERED, () => {
        clearTimeout(timer);
        started = true;
        resolve();
      });
      hls.on(Events.ERROR, (_, data) => {
        if (!data.fatal) return;
        const status = data.response?.code;
        if (status === 404 || status === 410) return fail("absent", this.#absent().message);
        if (data.details === ErrorDetails.MANIFEST_INCOMPATIBLE_CODECS_ERROR) {
          return fail("unsupported", "This browser cannot decode the stream's codecs.");
        }
        // One recovery each five seconds: a broken decoder state heals, a broken stream must not spin.
        if (data.type === ErrorTypes.MEDIA_ERROR && performance.now() - recovered_at > 5000) {
          recovered_at = performance.now();
          return hls.recoverMediaError();
        }
        fail(data.type === ErrorTypes.NETWORK_ERROR ? "network" : "unsupported", `HLS stopped: ${data.details}.`);
      });
      hls.loadSource(this.#url);
      hls.attachMedia(this.#video);
    });
  }

  #startNative() {
    const video = this.#video;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new DeliveryError("timeout", "HLS did not start in time.")), START_MS_MAX);
      const { signal } = this.#abort;
      const done = (settle) => () => {
        clearTimeout(timer);
        settle();
      };
      signal.addEventListener("abort", done(() => reject(new DeliveryError("stopped", "Stopped."))));
      video.addEventListener("loadeddata", done(resolve), { signal, once: true });
      video.addEventListener(
        "error",
        done(() => {
          const message = video.error?.message || "HLS stopped.";
          reject(new DeliveryError("network", message));
          this.#lose("network", message);
        }),
        { signal },
      );
      video.src = this.#url;
    });
  }

  #lose(kind, message) {
    if (!this.#abort.signal.aborted) this.onlost(new DeliveryError(kind, message));
  }

  stop() {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort();
    this.#hls?.destroy();
    this.#video.removeAttribute("src");
    this.#video.load();
  }

  /** A paused live stream falls behind: come back at the edge, not where the pause began. */
  toLiveEdge() {
    if (this.#recorded) return;
    const edge = this.#hls?.liveSyncPosition ?? lastSeekable(this.#video);
    if (edge > this.#video.currentTime + 1) this.#video.currentTime = edge;
  }

  async report() {
    if (this.#abort.signal.aborted) return null;
    const video = this.#video;
    const quality = video.getVideoPlaybackQuality?.();
    const now = { at: performance.now(), frames: quality?.totalVideoFrames ?? 0 };
    const before = this.#last;
    this.#last = now;
    const level = this.#level ?? this.#hls?.levels?.[0];
    const report = {
      protocol: this.#recorded ? "Recording" : this.#details?.partList ? "LL-HLS" : "HLS",
      video: codecName(level?.videoCodec),
      audio: codecName(level?.audioCodec),
      width: video.videoWidth,
      height: video.videoHeight,
      frames: now.frames,
    };
    if (this.#recorded) return report;
    if (this.#hls) {
      if (this.#hls.latency > 0) report.delay_ms = this.#hls.latency * 1000;
      if (level?.bitrate) report.bits_per_s = level.bitrate;
    } else if (lastSeekable(video)) {
      report.delay_ms = (lastSeekable(video) - video.currentTime) * 1000;
    }
    if (before) report.fps = ((now.frames - before.frames) * 1000) / (now.at - before.at);
    return report;
  }
}

function native() {
  return document.createElement("video").canPlayType("application/vnd.apple.mpegurl") !== "";
}

function lastSeekable(video) {
  return video.seekable.length ? video.seekable.end(video.seekable.length - 1) : 0;
}

const NAMES = { avc1: "H264", avc3: "H264", hvc1: "H265", hev1: "H265", av01: "AV1", vp09: "VP9", mp4a: "AAC" };

/** An RFC 6381 codec string as people say it. */
function codecName(codec) {
  if (!codec) return undefined;
  const family = codec.split(".")[0];
  return NAMES[family.toLowerCase()] ?? family;
}
