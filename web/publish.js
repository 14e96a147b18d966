// The publisher's page. In: the query of the address (id, token), what was chosen here before, and the user's hands. Out:
// buttons, words and figures. Deliberately absent: any decision about the connection (publisher.js) and the ways of devices
// (devices.js).

import { wireCopying } from "./copying.js";
import { NONE, SCREEN, SCREEN_AND_SOUND, Sources, allowed, canShareScreen, devices, isScreen, levelMeter, whatForbidsCapture } from "./devices.js";
import { Publisher } from "./publisher.js";
import { videoCodecs } from "./whip.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const app = location.pathname.replace(/\/[^/]*$/, "");

const LEVEL_MS = 100;
const MEMORY = `headwater.publish ${app}`;
const REMEMBERED = ["stream", "picture", "sound", "height", "fps", "limit", "codec", "simulcast"];
const FIRST = { stream: "mystream", height: "720", fps: "30" };
// What a size needs for faces at 30 pictures a second.
const ENOUGH_BITS_PER_S = { 360: 800e3, 480: 1200e3, 720: 2500e3, 1080: 4500e3 };
// These hold for a whole session.
const FIXED = ["stream", "codec", "simulcast", "token"];

const STATUS = {
  idle: "Ready",
  connecting: "Connecting",
  live: "Live",
  interrupted: "Interrupted",
  waiting: "Waiting",
  taken: "Name in use",
  refused: "Refused",
  failed: "Failed",
};
const HEADLINES = {
  connecting: "Connecting…",
  interrupted: "The connection is interrupted",
  waiting: "Not live yet",
  taken: "Somebody else is publishing under this name",
  refused: "The server does not let you publish",
  failed: "Cannot publish",
};
const LIMITS = { none: "nothing", cpu: "this machine's processor", bandwidth: "the network", other: "something else" };

const publisher = new Publisher({ app });
const sources = new Sources();
let onAir_at = null;
let meter = null;
/** The picture before a screen was shared: nobody's camera goes on because a screen goes off. */
let cameraBefore = NONE;
/** Ids of devices, or one of the words of devices.js; empty leaves it to the browser. */
const chosen = { picture: "", sound: "" };
let wakeLock = Promise.resolve(null);
/** What is being opened: one after the other, or a device would be opened twice and closed once. */
let opening = null;

run();

async function run() {
  const obstacle = await whatForbidsCapture();
  fillCodecs();
  recall();
  showAddresses();
  wireCopying($("settings"));
  if (obstacle) return refuse(obstacle);
  await fillDevices();
  wire();
  showState();
  showSources();
  if (await allowed()) openSources();
}

function refuse({ headline, explanation, link }) {
  document.body.dataset.state = "refused";
  $("status").textContent = "";
  $("bar").hidden = $("settings").hidden = true;
  $("notice").hidden = false;
  $("headline").textContent = headline;
  $("explanation").textContent = explanation;
  $("secure").hidden = !link;
  if (link) $("secure").href = $("secure").textContent = link;
}

// Settings: remembered, and as the address says.

function recall() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(MEMORY)) ?? {};
  } catch {
    // No storage, or not ours: begin anew.
  }
  for (const id of REMEMBERED) {
    const value = kept[id] ?? FIRST[id];
    if (value === undefined) continue;
    if ($(id).type === "checkbox") $(id).checked = value === true;
    else if (id in chosen) chosen[id] = value;
    else if (!$(id).options || [...$(id).options].some((option) => option.value === value)) $(id).value = value;
  }
  if (query.get("id")) $("stream").value = query.get("id");
  if (query.get("token")) $("token").value = query.get("token");
}

function remember() {
  const value = (field) => (field.type === "checkbox" ? field.checked : field.value);
  const kept = { ...Object.fromEntries(REMEMBERED.map((id) => [id, value($(id))])), ...chosen };
  // Next time begins with a camera.
  if (isScreen(kept.picture)) kept.picture = cameraBefore === NONE ? "" : cameraBefore;
  try {
    localStorage.setItem(MEMORY, JSON.stringify(kept));
  } catch {
    // A browser that keeps nothing is no reason to stop.
  }
}

function fillCodecs() {
  const words = { H264: "H.264", H265: "H.265 (HEVC)" };
  for (const codec of videoCodecs()) $("codec").add(new Option(words[codec] ?? codec, codec));
}

/** The lists grow labels with the permission, and change with each plug. */
async function fillDevices() {
  const { cameras, microphones } = await devices();
  const options = (list) => list.map(({ id, label }) => new Option(label, id));
  const screens = canShareScreen() ? [new Option("Screen or window", SCREEN), new Option("Screen with its sound", SCREEN_AND_SOUND)] : [];
  refill("picture", [...(cameras.length ? options(cameras) : [new Option("Camera", "")]), ...screens, new Option("No camera", NONE)]);
  refill("sound", [...(microphones.length ? options(microphones) : [new Option("Microphone", "")]), new Option("No microphone", NONE)]);
}

function refill(id, options) {
  $(id).replaceChildren(...options);
  if (options.some((option) => option.value === chosen[id])) $(id).value = chosen[id];
  else $(id).selectedIndex = 0;
}

function quality() {
  return { height: Number($("height").value), fps: Number($("fps").value) };
}

function limit_bits_per_s() {
  const { height, fps } = quality();
  return Number($("limit").value) || ENOUGH_BITS_PER_S[height] * (fps > 30 ? 1.5 : 1);
}

function showAddresses() {
  const id = encodeURIComponent($("stream").value);
  const watch = new URL(`${app}/play.html?id=${id}`, location.href).href;
  $("watch").textContent = $("look").href = watch;
  $("whip").textContent = new URL(`${app}/whip/${id}`, location.href).href;
  const title = `${decodeURIComponent(app).replace(/^\//, "")}/${$("stream").value}`;
  $("title").textContent = title;
  document.title = `Publish ${title} · Headwater`;
}

// Devices.

/** Whether it could be opened. */
async function attempt(open) {
  while (opening) await opening;
  opening = told(open);
  const done = await opening;
  opening = null;
  return done;
}

/** What goes wrong is told in words below the picture. */
async function told(open) {
  $("trouble").hidden = true;
  try {
    await open();
    return true;
  } catch (error) {
    if (!error.cancelled) {
      $("trouble").textContent = error.message;
      $("trouble").hidden = false;
    }
    return false;
  } finally {
    // The browser may have given another device than the one that was asked for, and labels for all of them.
    if (sources.picture && !sources.screen) chosen.picture = sources.picture.getSettings().deviceId ?? chosen.picture;
    if (sources.microphone) chosen.sound = sources.microphone.getSettings().deviceId ?? chosen.sound;
    await fillDevices();
    showSources();
  }
}

function openSources() {
  return attempt(() => sources.open({ camera: chosen.picture, microphone: chosen.sound, quality: quality() }));
}

async function choosePicture(choice) {
  const before = chosen.picture;
  if (isScreen(choice) && !sources.screen) cameraBefore = sources.picture ? before : NONE;
  chosen.picture = choice;
  const done = await attempt(() => sources.choosePicture(choice, quality()));
  if (!done && isScreen(choice)) {
    // There is no screen: the picture is what it was.
    chosen.picture = before;
    await fillDevices();
  }
  remember();
}

async function chooseSound(choice) {
  chosen.sound = choice;
  await attempt(() => sources.chooseSound(choice));
  remember();
}

/** Back from the screen to the camera, or the other way. */
function switchScreen() {
  return choosePicture(sources.screen ? cameraBefore : SCREEN);
}

async function reopen(kind) {
  if (kind === "picture" && sources.screen) return switchScreen();
  await (kind === "picture" ? choosePicture(chosen.picture) : chooseSound(chosen.sound));
}

/** What was chosen and is not there. */
async function openMissing() {
  if (!sources.picture && !sources.sound) return openSources();
  if (!sources.picture && chosen.picture !== NONE) await reopen("picture");
  if (!sources.microphone && chosen.sound !== NONE) await reopen("sound");
}

/** A device that was missed may have come back. */
async function plugged() {
  await fillDevices();
  if (!opening && (sources.picture || sources.sound)) await openMissing();
}

// The publisher.

async function start({ replace }) {
  if (!$("settings").reportValidity()) return;
  await openMissing();
  if (!sources.picture && !sources.sound) {
    if ($("trouble").hidden) {
      $("trouble").textContent = "There is nothing to send: choose a camera, a screen or a microphone.";
      $("trouble").hidden = false;
    }
    return;
  }
  remember();
  publisher.limit(limit_bits_per_s());
  publisher.start({
    id: $("stream").value,
    token: $("token").value,
    codec: $("codec").value,
    simulcast: $("simulcast").checked,
    replace,
  });
}

/** Both senders get what is captured now; the page shows it. */
function passOn() {
  const { picture, sound } = sources;
  for (const [kind, track] of [
    ["video", picture],
    ["audio", sound],
  ]) {
    publisher.send(kind, track).catch((error) => console.warn("headwater:", error));
  }
  $("video").srcObject = picture && new MediaStream([picture]);
  meter?.close();
  meter = sources.microphone && levelMeter(sources.microphone);
  showSources();
}

function wire() {
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("start").onclick = () => (publisher.busy ? publisher.stop() : start({ replace: false }));
  $("stream").oninput = showAddresses;
  $("picture").onchange = () => choosePicture($("picture").value);
  $("sound").onchange = () => chooseSound($("sound").value);
  $("screen").onclick = switchScreen;
  $("screen").hidden = !canShareScreen();
  for (const id of ["height", "fps", "limit"]) {
    $(id).onchange = () => {
      remember();
      publisher.limit(limit_bits_per_s()).catch((error) => console.warn("headwater:", error));
      if (id !== "limit") attempt(() => sources.adjust(quality()));
    };
  }
  $("mute").onclick = () => mute("sound");
  $("blind").onclick = () => mute("picture");
  setInterval(() => ($("level").value = meter && !sources.isMuted("sound") ? meter.read() : 0), LEVEL_MS);
  sources.addEventListener("change", passOn);
  sources.addEventListener("lost", ({ detail }) => reopen(detail));
  publisher.addEventListener("state", showState);
  publisher.addEventListener("report", ({ detail }) => showReport(detail));
  navigator.mediaDevices.addEventListener("devicechange", plugged);
  addEventListener("online", () => publisher.renew());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    publisher.hurry();
    stayAwake();
  });
  addEventListener("pagehide", () => {
    publisher.stop();
    sources.close();
  });
  addEventListener("beforeunload", (event) => publisher.busy && event.preventDefault());
  wireKeys();
}

function mute(kind) {
  sources.mute(kind, !sources.isMuted(kind));
  showSources();
}

/** A phone that dims its screen closes the camera. */
function stayAwake() {
  wakeLock = wakeLock.then(async (lock) => {
    if (!publisher.busy) return (await lock?.release()) ?? null;
    // A page that was hidden has lost it.
    if (lock && !lock.released) return lock;
    return navigator.wakeLock?.request("screen").catch(() => null) ?? null;
  });
}

function wireKeys() {
  const keys = { m: "mute", c: "blind", s: "screen" };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    const button = document.getElementById(keys[event.key.toLowerCase()]);
    if (!button || button.hidden || button.disabled) return;
    event.preventDefault();
    button.click();
  });
}

// What one sees.

function showState() {
  const { state, busy } = publisher;
  document.body.dataset.state = state;
  $("status").textContent = STATUS[state];
  $("status").dataset.state = state;
  $("status").classList.toggle("dot", state === "live");
  $("start").textContent = busy ? "Stop publishing" : "Start publishing";
  for (const id of FIXED) $(id).disabled = busy;
  if (state === "live") onAir_at ??= Date.now();
  $("facts").hidden = !busy;
  if (!busy) clearReport();
  stayAwake();
  showNotice();
}

/** What lies over the picture. */
function showNotice() {
  const { state, message } = publisher;
  const asking = state === "idle" && !sources.picture && !sources.sound;
  const soundOnly = ["idle", "live"].includes(state) && !sources.picture && sources.sound;
  $("notice").hidden = !HEADLINES[state] && !asking && !soundOnly;
  $("spinner").hidden = !["connecting", "interrupted", "waiting"].includes(state);
  $("headline").textContent = HEADLINES[state] ?? (soundOnly ? "Sound only" : "");
  $("explanation").textContent = asking ? "Nobody sees or hears you before you start publishing." : state === "connecting" ? "" : message;
  const [label, act] = whatToDo(asking);
  $("act").hidden = !label;
  $("act").textContent = label;
  $("act").onclick = act;
}

function whatToDo(asking) {
  if (asking) return ["Use camera and microphone", openSources];
  if (publisher.state === "taken" && publisher.replaceable) return ["Publish in their place", () => start({ replace: true })];
  if (["taken", "refused", "failed"].includes(publisher.state)) return ["Try again", () => start({ replace: false })];
  return ["", null];
}

function showSources() {
  const { picture, microphone, screen } = sources;
  $("video").classList.toggle("mirrored", sources.facesUser);
  $("mute").disabled = !microphone;
  $("mute").textContent = sources.isMuted("sound") ? "Unmute microphone" : "Mute microphone";
  $("mute").setAttribute("aria-pressed", String(sources.isMuted("sound")));
  $("level").hidden = !microphone;
  const word = screen ? "Screen" : "Camera";
  $("blind").disabled = !picture;
  $("blind").textContent = `${word} ${sources.isMuted("picture") ? "on" : "off"}`;
  $("blind").setAttribute("aria-pressed", String(sources.isMuted("picture")));
  $("screen").textContent = screen ? "Stop sharing" : "Share screen";
  showNotice();
}

function showReport(report) {
  if (!publisher.busy) return;
  const rate = report.fps > 0 ? `${Math.round(report.fps)} fps` : "";
  const size = report.width ? `${report.width}×${report.height}` : "";
  const layers = report.layers > 1 ? `${report.layers} sizes` : "";
  $("duration").textContent = duration(Date.now() - onAir_at);
  $("codec-video").textContent = [report.video, size, rate, layers].filter(Boolean).join(", ") || "none";
  $("codec-audio").textContent = report.audio ?? "none";
  $("bitrate").textContent = report.bits_per_s >= 0 ? `${(report.bits_per_s / 1e6).toFixed(2)} Mbit/s` : "–";
  $("loss").textContent = report.loss >= 0 ? `${(100 * report.loss).toFixed(1)} %` : "–";
  $("roundtrip").textContent = report.round_trip_ms >= 0 ? `${Math.round(report.round_trip_ms)} ms` : "–";
  $("path").textContent = report.path ?? "–";
  $("limited").textContent = LIMITS[report.limited_by] ?? "–";
}

function clearReport() {
  onAir_at = null;
  for (const value of $("facts").querySelectorAll("dd")) value.textContent = "–";
}

function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}
