// The player's page. In: the query of the address (id, playOrder, autoplay, mute, targetLatency; `name` is an old word for
// id). Out: buttons, words and figures. Deliberately absent: any decision about the stream (player.js).

import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const flag = (name, otherwise) => (query.has(name) ? query.get(name) !== "false" : otherwise);

const id = query.get("id") ?? query.get("name") ?? "";
const order = (query.get("playOrder") ?? "webrtc,hls")
  .split(",")
  .map((name) => name.trim().toLowerCase())
  .map((name) => (name === "ll-hls" ? "hls" : name));
const vod = order[0] === "vod";
const app = location.pathname.replace(/\/play\.html$/, "");

const video = $("video");
video.muted = flag("mute", true);

const HEADLINES = {
  idle: "",
  connecting: "Connecting…",
  playing: "",
  interrupted: "The stream is interrupted",
  absent: vod ? "Not found" : "Not live",
  ended: "The stream has ended",
  failed: "Cannot play",
};
const STATUS = { ...HEADLINES, idle: "Ready", connecting: "Connecting", playing: vod ? "Playing" : "Live" };

if (validId(id)) run();
else refuse();

/** Ids are what a publisher may choose; a recording is a file below streams/. */
function validId(id) {
  return (vod ? /^streams\/[A-Za-z0-9._\/-]+$/ : /^[A-Za-z0-9._-]+$/).test(id) && !id.split("/").includes("..");
}

function refuse() {
  $("bar").hidden = $("facts").hidden = $("spinner").hidden = true;
  $("headline").textContent = id ? "This is no stream id" : "No stream is named";
  $("explanation").textContent = id
    ? "An id is made of letters, digits, dot, dash and underscore."
    : "Add ?id=… to the address of this page, or choose a stream on the front page.";
  $("status").textContent = "";
}

function run() {
  const title = vod ? id.replace(/^streams\//, "") : `${decodeURIComponent(app).replace(/^\//, "")}/${id}`;
  $("title").textContent = title;
  document.title = `${title} · Headwater`;
  const player = new Player({ video, app, id, order, targetLatency: Number(query.get("targetLatency")) });

  player.addEventListener("state", () => showState(player));
  player.addEventListener("report", ({ detail }) => showReport(player, detail));
  player.addEventListener("blocked", () => offerStart(() => video.play()));

  if (vod) {
    video.controls = true;
    $("bar").hidden = true;
  }
  wireSound();
  wirePause(player);
  wireWays(player);
  wireScreens();
  wireKeys();
  addEventListener("online", () => player.hurry());
  document.addEventListener("visibilitychange", () => document.hidden || player.hurry());
  addEventListener("pagehide", () => player.stop());
  // Back out of the browser's page cache: the connection is gone, begin again.
  addEventListener("pageshow", (event) => event.persisted && player.start());

  if (flag("autoplay", true)) player.start();
  else {
    $("status").textContent = STATUS.idle;
    offerStart(() => player.start());
  }
}

function offerStart(go) {
  const start = $("start");
  $("notice").hidden = start.hidden = false;
  $("spinner").hidden = true;
  $("headline").textContent = $("explanation").textContent = "";
  start.onclick = () => {
    start.hidden = true;
    $("notice").hidden = true;
    go();
  };
}

function showState(player) {
  const { state, message } = player;
  document.body.dataset.state = state;
  document.body.dataset.way = player.way ?? "";
  $("status").textContent = STATUS[state];
  $("status").dataset.state = state;
  $("status").classList.toggle("dot", state === "playing" && !vod);
  $("notice").hidden = state === "playing" || state === "idle";
  $("start").hidden = true;
  $("spinner").hidden = !["connecting", "interrupted"].includes(state);
  $("headline").textContent = HEADLINES[state];
  $("explanation").textContent = state === "connecting" ? "" : message;
  showUnmute();
  showWay(player);
}

/** Sound is what most pages start without; the offer lies on the picture once there is one. */
function showUnmute() {
  const silent = video.muted || video.volume === 0;
  $("unmute").hidden = !silent || vod || document.body.dataset.state !== "playing";
}

function showWay(player) {
  // Between two attempts there is none: leave what was tried last.
  if (!player.way) return;
  for (const input of $("ways").querySelectorAll("input")) input.checked = input.value === player.way;
}

function showReport(player, report) {
  document.body.dataset.way = player.way ?? "";
  showWay(player);
  const path = player.facts?.deliveryPath?.[player.way];
  const roundabout = report.path && report.path !== "UDP";
  $("protocol").textContent = report.protocol + (roundabout ? ` over ${report.path}` : "");
  // Only WebRTC tells of every track; a playlist may leave its codecs out.
  const unknown = report.protocol === "WebRTC" ? "none" : "–";
  const picture = [
    report.video,
    report.width ? `${report.width}×${report.height}` : "",
    report.fps > 0 ? `${Math.round(report.fps)} fps` : "",
  ];
  $("codec-video").textContent = picture.filter(Boolean).join(", ") || unknown;
  $("codec-audio").textContent = report.audio ?? unknown;
  $("path").textContent = describePath(path);
  $("delay").textContent = describeDelay(report);
  $("bitrate").textContent = report.bits_per_s > 0 ? `${(report.bits_per_s / 1e6).toFixed(2)} Mbit/s` : "–";
}

function describePath(path = {}) {
  const parts = Object.entries(path).map(([kind, how]) => `${kind}: ${how}`);
  return parts.join("; ") || "–";
}

function describeDelay({ protocol, delay_ms }) {
  if (!(delay_ms >= 0)) return "–";
  if (protocol === "WebRTC") return `${Math.round(delay_ms)} ms from the server`;
  return `${(delay_ms / 1000).toFixed(1)} s behind the live edge`;
}

function wireSound() {
  const show = () => {
    const silent = video.muted || video.volume === 0;
    $("mute").textContent = silent ? "Unmute" : "Mute";
    $("mute").setAttribute("aria-pressed", String(silent));
    $("volume").value = video.muted ? 0 : video.volume;
    showUnmute();
  };
  const toggle = () => {
    video.muted = !video.muted;
    if (!video.muted && video.volume === 0) video.volume = 1;
  };
  $("mute").onclick = $("unmute").onclick = toggle;
  $("volume").oninput = (event) => {
    video.volume = Number(event.target.value);
    video.muted = video.volume === 0;
  };
  video.addEventListener("volumechange", show);
  show();
}

function wirePause(player) {
  $("pause").onclick = () => {
    if (player.state === "idle") player.start();
    else if (video.paused) video.play();
    else video.pause();
  };
  const show = () => ($("pause").textContent = video.paused ? "Play" : "Pause");
  video.addEventListener("play", show);
  video.addEventListener("pause", show);
  show();
}

function wireWays(player) {
  $("ways").addEventListener("change", (event) => player.choose(event.target.value));
}

function wireScreens() {
  const stage = $("stage");
  const full = $("fullscreen");
  if (stage.requestFullscreen) {
    full.onclick = () => (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen());
    document.addEventListener("fullscreenchange", () => {
      full.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
  } else if (video.webkitEnterFullscreen) {
    // iPhones let only the video itself fill the screen.
    full.onclick = () => video.webkitEnterFullscreen();
  } else {
    full.hidden = true;
  }
  const pip = $("pip");
  pip.hidden = !document.pictureInPictureEnabled;
  pip.onclick = () => {
    const done = document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture();
    // Refused without a picture yet: nothing to tell, the button stays.
    done.catch(() => {});
  };
}

function wireKeys() {
  const keys = { k: "pause", m: "mute", f: "fullscreen", i: "pip" };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=radio])")) return;
    const button = document.getElementById(keys[event.key.toLowerCase()]);
    if (!button || button.hidden || $("bar").hidden) return;
    event.preventDefault();
    button.click();
  });
}
