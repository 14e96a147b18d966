// Runs inside the page. Reads the clock that publishers draw into the picture, and listens for the beep at each whole
// second. Figures are since the last reset().
//
// The clock is in the top fifth of the picture: two rows of 40 cells, white is one.
//   row 0: 1010, 32 bits of unix milliseconds, 4 bits of check
//   row 1: 0101, 8 bits of publisher id and 24 bits of frame number, 4 bits of check

(() => {
  const CELLS = 40;
  const CELL_PX = 8;
  const ROW_PX = 16;

  function decode(bits, sync) {
    if (sync.some((bit, i) => bits[i] !== bit)) return null;
    const word = bits.slice(4, 36).reduce((sum, bit) => ((sum << 1) | bit) >>> 0, 0);
    const check = bits.slice(36).reduce((sum, bit) => (sum << 1) | bit, 0);
    let wanted = 5;
    for (let shift = 0; shift < 32; shift += 4) wanted ^= (word >>> shift) & 15;
    return check === wanted ? word : null;
  }

  function quantiles(list) {
    if (!list.length) return null;
    const sorted = [...list].sort((a, b) => a - b);
    const at = (part) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]);
    return { n: sorted.length, min: at(0), p50: at(0.5), p95: at(0.95), max: Math.round(sorted.at(-1)) };
  }

  class Probe {
    constructor(video) {
      this.video = video;
      this.first_at = null;
      this.frames_total = 0;
      this.canvas = new OffscreenCanvas(CELLS * CELL_PX, 2 * ROW_PX);
      this.context = this.canvas.getContext("2d", { willReadFrequently: true, alpha: false });
      this.reset();
      const each = (now) => {
        this.#picture(now);
        video.requestVideoFrameCallback(each);
      };
      video.requestVideoFrameCallback(each);
    }

    reset() {
      this.begun = performance.now();
      this.media_begun = this.video.currentTime;
      this.quality_before = this.#quality();
      this.frames = 0;
      this.unreadable = 0;
      this.published = 0;
      this.repeated = 0;
      this.backwards = 0;
      this.delays = [];
      this.skews = [];
      this.ids = {};
      this.gap_ms_max = 0;
      this.seen_at = null;
      this.number = null;
      this.peak = 0;
      this.squares = 0;
      this.samples = 0;
    }

    /** The browser's own counts: a busy page misses calls for pictures that were shown all the same. */
    #quality() {
      const { totalVideoFrames, droppedVideoFrames } = this.video.getVideoPlaybackQuality();
      return { decoded: totalVideoFrames, dropped: droppedVideoFrames };
    }

    #read() {
      const { video, context } = this;
      const width = CELLS * CELL_PX;
      context.drawImage(video, 0, 0, video.videoWidth, video.videoHeight / 5, 0, 0, width, 2 * ROW_PX);
      const { data } = context.getImageData(0, 0, width, 2 * ROW_PX);
      const row = (y) =>
        Array.from({ length: CELLS }, (_, cell) => {
          const at = 4 * (y * width + cell * CELL_PX + CELL_PX / 2);
          return data[at] + data[at + 1] + data[at + 2] > 3 * 128 ? 1 : 0;
        });
      return [decode(row(ROW_PX / 2), [1, 0, 1, 0]), decode(row(ROW_PX + ROW_PX / 2), [0, 1, 0, 1])];
    }

    #picture(now) {
      const clock = Date.now();
      this.first_at ??= performance.now();
      this.frames += 1;
      this.frames_total += 1;
      if (this.seen_at !== null) this.gap_ms_max = Math.max(this.gap_ms_max, now - this.seen_at);
      this.seen_at = now;
      const [ms, tag] = this.#read();
      if (ms === null || tag === null) {
        this.unreadable += 1;
        return;
      }
      this.delay = ((clock % 2 ** 32) - ms + 2 ** 32) % 2 ** 32;
      this.delays.push(this.delay);
      const id = tag >>> 24;
      const number = tag & 0xffffff;
      this.ids[id] = (this.ids[id] ?? 0) + 1;
      if (this.number !== null && this.id === id) {
        const step = number - this.number;
        if (step === 0) this.repeated += 1;
        else if (step < 0) this.backwards += 1;
        else this.published += step;
      }
      this.id = id;
      this.number = number;
    }

    /** Sound, as the speakers would get it. */
    listen() {
      const { video } = this;
      if (video.srcObject?.getAudioTracks().length === 0) return;
      const audio = new AudioContext();
      const source = video.srcObject ? audio.createMediaStreamSource(video.srcObject) : audio.createMediaElementSource(video);
      const analyser = audio.createAnalyser();
      analyser.fftSize = 1024;
      source.connect(analyser);
      if (!video.srcObject) source.connect(audio.destination);
      const wave = new Float32Array(analyser.fftSize);
      let quiet_since = performance.now();
      setInterval(() => {
        analyser.getFloatTimeDomainData(wave);
        const peak = wave.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
        this.peak = Math.max(this.peak, peak);
        this.squares += wave.reduce((sum, sample) => sum + sample * sample, 0);
        this.samples += wave.length;
        if (peak < 0.1) return;
        // A beep after half a second without one: it was published at a whole second of the picture's clock.
        const loud = wave.findIndex((sample) => Math.abs(sample) >= 0.1);
        const fresh = performance.now() - quiet_since > 500;
        quiet_since = performance.now();
        if (!fresh || this.delay === undefined) return;
        const onset = Date.now() - ((wave.length - loud) * 1000) / audio.sampleRate;
        const shown = onset - this.delay;
        this.skews.push(shown - Math.round(shown / 1000) * 1000);
      }, 10);
      this.audio = audio;
    }

    report() {
      const { video } = this;
      const seconds = (performance.now() - this.begun) / 1000;
      const quality = this.#quality();
      const decoded = quality.decoded - this.quality_before.decoded;
      return {
        seconds,
        media_seconds: video.currentTime - this.media_begun,
        frames: this.frames,
        frames_total: this.frames_total,
        fps: this.frames / seconds,
        decoded,
        decoded_fps: decoded / seconds,
        // Decoded, then not shown: a busy browser was too late for it, or several came at once.
        dropped: quality.dropped - this.quality_before.dropped,
        unreadable: this.unreadable,
        // From the first picture that was seen to the last, by the numbers in them; and how many of those never came.
        published: this.published,
        missing: Math.max(0, this.published - decoded),
        repeated: this.repeated,
        backwards: this.backwards,
        ids: this.ids,
        delay_ms: quantiles(this.delays),
        skew_ms: quantiles(this.skews),
        // A picture that stopped is a gap that grows.
        gap_ms_max: Math.round(Math.max(this.gap_ms_max, this.seen_at === null ? 0 : performance.now() - this.seen_at)),
        sound_peak: this.peak,
        sound_rms: this.samples ? Math.sqrt(this.squares / this.samples) : 0,
        width: video.videoWidth,
        height: video.videoHeight,
        media_time: video.currentTime,
      };
    }
  }

  window.Probe = Probe;
})();
