// Camera, microphone and screen. In: what was chosen. Out: one track of picture and one of sound, lists of devices, and
// every refusal of the browser as a sentence. Deliberately absent: where the tracks go (publisher.js, publish.js).

// Choices that are no device.
export const NONE = "none";
export const SCREEN = "screen";
export const SCREEN_AND_SOUND = "screen+sound";

export class DeviceError extends Error {
  /** `cancelled`: the user thought better of it, and needs not be told. */
  constructor(message, { cancelled = false } = {}) {
    super(message);
    this.name = "DeviceError";
    this.cancelled = cancelled;
  }
}

/** Why a page can have no devices at all, for its reader; null where it can. */
export async function whatForbidsCapture() {
  if (typeof RTCPeerConnection !== "function") {
    return { headline: "This browser has no WebRTC", explanation: "Publish from another browser, or with OBS as the front page says." };
  }
  if (!isSecureContext) {
    const explanation = "Browsers give camera, microphone and screen only to pages that come by https, or from this same machine.";
    return { headline: "This page is not secure", explanation, link: await secureAddress() };
  }
  if (!navigator.mediaDevices?.getUserMedia) {
    return { headline: "This browser gives no camera to pages", explanation: "Publish from another browser, or with OBS as the front page says." };
  }
  return null;
}

/** The same page by https, where the server has a certificate. */
async function secureAddress() {
  const response = await fetch("../rest/v2/version", { signal: AbortSignal.timeout(5000) }).catch(() => null);
  const version = response?.ok ? await response.json() : {};
  if (!Number.isInteger(version.httpsPort)) return null;
  return `https://${location.hostname}:${version.httpsPort}${location.pathname}${location.search}`;
}

/** Cameras and microphones; labels come with the permission. */
export async function devices() {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const of = (kind, word) =>
    all
      .filter((device) => device.kind === kind && device.deviceId !== "communications")
      .map(({ deviceId, label }, index) => ({ id: deviceId, label: label || `${word} ${index + 1}` }));
  return { cameras: of("videoinput", "Camera"), microphones: of("audioinput", "Microphone") };
}

/** Whether the browser would let us in without asking anybody. */
export async function allowed() {
  const ask = async (name) => (await navigator.permissions.query({ name })).state === "granted";
  try {
    return (await ask("camera")) && (await ask("microphone"));
  } catch {
    // Older browsers know no such permission.
    return false;
  }
}

export function canShareScreen() {
  return typeof navigator.mediaDevices?.getDisplayMedia === "function";
}

export function isScreen(choice) {
  return choice === SCREEN || choice === SCREEN_AND_SOUND;
}

/**
 * What is captured now. Events: `change` (another track of picture or sound, or none), `lost` (the device went away, or
 * the sharing was ended in the browser; `detail` is "picture" or "sound").
 */
export class Sources extends EventTarget {
  #picture = null;
  #microphone = null;
  #screenSound = null;
  #mixer = null;
  #muted = { camera: false, screen: false, sound: false };

  /** Is the picture that of a screen? */
  screen = false;

  get picture() {
    return this.#picture;
  }

  /** The microphone, the screen's sound, or both in one. */
  get sound() {
    return this.#mixer?.track ?? this.#screenSound ?? this.#microphone;
  }

  get microphone() {
    return this.#microphone;
  }

  /** A webcam, or the camera on a phone's front: people want to see themselves as in a mirror. */
  get facesUser() {
    return !this.screen && this.#picture !== null && this.#picture.getSettings().facingMode !== "environment";
  }

  /** Both at once, so that the browser asks once. Throws what is wrong with the first that is missing; the other is used. */
  async open({ camera, microphone, quality }) {
    if (camera === NONE || microphone === NONE || isScreen(camera)) {
      await this.choosePicture(camera, quality);
      return this.chooseSound(microphone);
    }
    let stream;
    try {
      stream = await capture({ video: videoOf(camera, quality), audio: audioOf(microphone) });
    } catch (error) {
      if (error.name === "NotAllowedError") throw inWords(error, "camera or microphone");
      // Which of the two it is, the browser does not say.
      const failed = [];
      await this.choosePicture(camera, quality).catch((cause) => failed.push(cause));
      await this.chooseSound(microphone).catch((cause) => failed.push(cause));
      if (failed.length) throw failed[0];
      return;
    }
    this.#dropPicture();
    this.#microphone?.stop();
    this.#take("picture", stream.getVideoTracks()[0]);
    this.#take("sound", stream.getAudioTracks()[0]);
    this.#changed();
  }

  async choosePicture(choice, quality) {
    if (isScreen(choice)) {
      // The user may think better of it: what was captured before goes on until there is a screen.
      const stream = await shareScreen(choice === SCREEN_AND_SOUND, quality);
      this.#dropPicture();
      this.screen = true;
      // Who shares a screen wants it seen, even if the camera was off.
      this.#muted.screen = false;
      this.#take("picture", stream.getVideoTracks()[0]);
      this.#screenSound = stream.getAudioTracks()[0] ?? null;
    } else {
      // Phones open one camera at a time: the old one first gives way.
      this.#dropPicture();
      if (choice !== NONE) {
        const stream = await this.#orChanged(capture({ video: videoOf(choice, quality) }), "camera");
        this.#take("picture", stream.getVideoTracks()[0]);
      }
    }
    this.#changed();
  }

  async chooseSound(choice) {
    this.#microphone?.stop();
    this.#microphone = null;
    if (choice !== NONE) {
      const stream = await this.#orChanged(capture({ audio: audioOf(choice) }), "microphone");
      this.#take("sound", stream.getAudioTracks()[0]);
    }
    this.#changed();
  }

  /** Another size or rate of the same picture. */
  async adjust(quality) {
    const sizes = this.screen ? screenOf(quality) : sizeOf(quality);
    await this.#picture?.applyConstraints(sizes).catch((error) => {
      throw inWords(error, this.screen ? "screen" : "camera");
    });
  }

  /** Black or silence instead; the device stays open, and comes back at once. */
  mute(kind, muted) {
    this.#muted[this.#mutedAs(kind)] = muted;
    const track = kind === "picture" ? this.#picture : this.#microphone;
    if (track) track.enabled = !muted;
  }

  isMuted(kind) {
    return this.#muted[this.#mutedAs(kind)];
  }

  #mutedAs(kind) {
    if (kind === "sound") return kind;
    return this.screen ? "screen" : "camera";
  }

  close() {
    this.#dropPicture();
    this.#microphone?.stop();
    this.#microphone = null;
    this.#changed();
  }

  #take(kind, track) {
    track.enabled = !this.isMuted(kind);
    track.addEventListener("ended", () => {
      if (track !== this.#picture && track !== this.#microphone) return;
      this.dispatchEvent(new CustomEvent("lost", { detail: kind }));
    });
    if (kind === "sound") {
      this.#microphone = track;
      return;
    }
    // Text must stay sharp when bits are short.
    if (this.screen) track.contentHint = "detail";
    this.#picture = track;
  }

  #dropPicture() {
    this.#picture?.stop();
    this.#screenSound?.stop();
    this.#picture = this.#screenSound = null;
    this.screen = false;
  }

  /** A device that could not be opened leaves none behind: who sends must know. */
  #orChanged(opening, name) {
    return opening.catch((error) => {
      this.#changed();
      throw inWords(error, name);
    });
  }

  #changed() {
    this.#mixer?.close();
    this.#mixer = this.#microphone && this.#screenSound ? mix([this.#microphone, this.#screenSound]) : null;
    this.dispatchEvent(new Event("change"));
  }
}

function mix(tracks) {
  const context = new AudioContext();
  const output = context.createMediaStreamDestination();
  for (const track of tracks) context.createMediaStreamSource(new MediaStream([track])).connect(output);
  return { track: output.stream.getAudioTracks()[0], close: () => context.close() };
}

/** How loud a track is now, 0 to 1. */
export function levelMeter(track) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const wave = new Float32Array(analyser.fftSize);
  const read = () => {
    analyser.getFloatTimeDomainData(wave);
    const peak = wave.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    // Ears are logarithmic: 60 dB over the whole scale.
    return Math.max(0, 1 + Math.log10(peak || 1e-9) / 3);
  };
  return { read, close: () => context.close() };
}

async function capture(constraints) {
  try {
    return await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    if (error.name !== "OverconstrainedError") throw error;
    // The device that was remembered is not there any more: any other is better than none.
    const anyDevice = (wishes) => wishes && { ...wishes, deviceId: undefined };
    return navigator.mediaDevices.getUserMedia({ video: anyDevice(constraints.video), audio: anyDevice(constraints.audio) });
  }
}

async function shareScreen(sound, quality) {
  try {
    return await navigator.mediaDevices.getDisplayMedia({
      video: screenOf(quality),
      // What is being said or played must not be treated as a voice.
      audio: sound && { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      systemAudio: sound ? "include" : "exclude",
    });
  } catch (error) {
    // The same name for "no" and for having closed the question.
    if (error.name === "NotAllowedError") throw new DeviceError("No screen was chosen.", { cancelled: true });
    throw inWords(error, "screen");
  }
}

/** Empty leaves it to the browser. */
function which(id) {
  return id ? { deviceId: { exact: id } } : {};
}

function videoOf(id, quality) {
  return { ...which(id), ...sizeOf(quality) };
}

function audioOf(id) {
  return { ...which(id), echoCancellation: true, noiseSuppression: true, autoGainControl: true };
}

function sizeOf({ height, fps }) {
  return { width: { ideal: (height * 16) / 9 }, height: { ideal: height }, frameRate: { ideal: fps } };
}

/** A screen has the shape it has: only its size is limited. */
function screenOf({ height, fps }) {
  return { width: { max: Math.ceil((height * 16) / 9) }, height: { max: height }, frameRate: { max: fps } };
}

function inWords(error, name) {
  switch (error.name) {
    case "NotAllowedError":
      return new DeviceError(`The browser refuses the ${name}. Allow it in the browser’s settings for this site, and try again.`);
    case "NotFoundError":
      return new DeviceError(`No ${name} was found. Plug one in, or choose “No ${name}”.`);
    case "NotReadableError":
    case "AbortError":
      return new DeviceError(`The ${name} can't be used. Most often another program has it: close that one and try again.`);
    case "OverconstrainedError":
      return new DeviceError(`The ${name} can't do what was asked of it. Choose another.`);
    case "SecurityError":
      return new DeviceError(`The browser's settings forbid the ${name} altogether.`);
    default:
      return new DeviceError(`The ${name} does not start: ${error.message || error.name}.`);
  }
}
