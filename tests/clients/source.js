// Runs inside the page. A picture that tells the time and a sound that beeps at each whole second: what probe.js reads back,
// and in the same layout.

(() => {
  const CELLS = 40;

  function bits(sync, word) {
    let check = 5;
    for (let shift = 0; shift < 32; shift += 4) check ^= (word >>> shift) & 15;
    const tail = (value, count) => Array.from({ length: count }, (_, i) => (value >>> (count - 1 - i)) & 1);
    return [...sync, ...tail(word, 32), ...tail(check, 4)];
  }

  /** One camera. `id` tells publishers and cameras apart in what a viewer sees. */
  window.Camera = class {
    #number = 0;

    constructor({ id, width, height, fps }) {
      this.id = id;
      this.canvas = document.createElement("canvas");
      this.resize(width, height);
      this.context = this.canvas.getContext("2d", { alpha: false });
      this.track = this.canvas.captureStream().getVideoTracks()[0];
      // A page's own timers are slowed down when nobody looks at it.
      const ticks = `let ticks = 0;
        const begun = performance.now();
        (function next() {
          postMessage(ticks++);
          setTimeout(next, begun + (ticks * 1000) / ${fps} - performance.now());
        })();`;
      this.worker = new Worker(URL.createObjectURL(new Blob([ticks])));
      this.worker.onmessage = () => this.#paint();
    }

    /** As a shared window does that its user resizes. */
    resize(width, height) {
      Object.assign(this.canvas, { width, height });
    }

    stop() {
      this.worker.terminate();
      this.track.stop();
    }

    #paint() {
      const { width, height } = this.canvas;
      const number = this.#number++;
      this.context.fillStyle = `hsl(${number % 360} 60% 40%)`;
      this.context.fillRect(0, 0, width, height);
      // Something that moves, so that a keyframe is not all there is to encode.
      this.context.fillStyle = "#fff";
      this.context.fillRect((number * 7) % width, height / 2, width / 10, height / 4);
      this.#row(0, bits([1, 0, 1, 0], Date.now() % 2 ** 32));
      this.#row(1, bits([0, 1, 0, 1], ((this.id << 24) | (number & 0xffffff)) >>> 0));
    }

    #row(row, cells) {
      const { width, height } = this.canvas;
      const edge = (cell) => Math.round((cell * width) / CELLS);
      cells.forEach((on, cell) => {
        this.context.fillStyle = on ? "#fff" : "#000";
        this.context.fillRect(edge(cell), (row * height) / 10, edge(cell + 1) - edge(cell), height / 10);
      });
    }
  };

  /** A quiet tone, and a beep at each whole second. */
  window.beeps = () => {
    const audio = new AudioContext({ sampleRate: 48000 });
    const output = audio.createMediaStreamDestination();
    const voice = (hertz, loudness) => {
      const gain = new GainNode(audio, { gain: loudness });
      const oscillator = new OscillatorNode(audio, { frequency: hertz });
      oscillator.connect(gain).connect(output);
      oscillator.start();
      return gain.gain;
    };
    voice(440, 0.05);
    const beep = voice(1000, 0);
    let last = 0;
    setInterval(() => {
      const now = Date.now();
      const second = Math.ceil((now + 50) / 1000);
      if (second === last) return;
      last = second;
      const at = audio.currentTime + (1000 * second - now) / 1000;
      beep.setValueAtTime(0.5, at);
      beep.setValueAtTime(0, at + 0.08);
    }, 200);
    return output.stream.getAudioTracks()[0];
  };
})();
