// The front page. In: the lists of live streams and recordings. Out: cards and rows with links, and what a publisher has to
// type. Deliberately absent: playing anything (play.js) and changing anything at the server.

import { wireCopying } from "./copying.js";

const LIVE_MS = 2000;
const RECORDINGS_MS = 10000;
const RTMP_PORT = 1935;

const $ = (id) => document.getElementById(id);
const apps = new Set(["live"]);
let rtmpPort = RTMP_PORT;

/** A new element with text and attributes; text never becomes markup. */
function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Refused extends Error {}

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(5000) });
  if (response.status === 401 || response.status === 403) throw new Refused();
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  return response.json();
}

/** Runs `task` now and `ms` after each end, faster again when the page is looked at; a hidden page asks nothing. */
function repeat(task, ms) {
  let timer = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (!document.hidden) await task();
    timer = setTimeout(turn, ms);
  };
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
}

// What is live.

async function showLive() {
  let list;
  try {
    list = await ask("rest/v2/live");
  } catch (error) {
    $("live").replaceChildren();
    $("live-message").textContent =
      error instanceof Refused
        ? "This server lists its streams only to its own machine. A stream whose id you know can be watched all the same."
        : "The server does not answer. Trying again…";
    $("live-message").hidden = false;
    return;
  }
  list.sort((a, b) => `${a.app}/${a.streamId}`.localeCompare(`${b.app}/${b.streamId}`));
  for (const { app } of list) apps.add(app);
  $("live-message").hidden = list.length > 0;
  $("live-message").textContent = "Nothing is live. Publish with the settings below, and the stream appears here by itself.";
  // A card that stays keeps its element, and with it the keyboard's focus.
  const old = new Map([...$("live").children].map((card) => [card.dataset.name, card]));
  $("live").replaceChildren(
    ...list.map((stream) => {
      const name = `${stream.app}/${stream.streamId}`;
      const card = old.get(name) ?? newCard(stream, name);
      const facts = liveFacts(stream).flatMap(([term, text]) => [element("dt", { text: term }), element("dd", { text })]);
      card.querySelector("dl").replaceChildren(...facts);
      return card;
    }),
  );
}

function newCard({ app, streamId }, name) {
  const card = element("li", { class: "card", "data-name": name });
  card.append(
    element("h3", { class: "dot", text: name }),
    element("dl", { class: "facts" }),
    element(
      "div",
      { class: "actions" },
      element("a", { class: "button primary", href: playAddress(app, streamId), text: "Watch", "aria-label": `Watch ${name}` }),
      element("a", { class: "button", href: `${playAddress(app, streamId)}&playOrder=hls`, text: "Watch by HLS", "aria-label": `Watch ${name} by HLS` }),
    ),
  );
  return card;
}

function liveFacts(stream) {
  // The publisher's own tracks come first; those made for some viewers follow.
  const video = stream.tracks.find((track) => track.width);
  const audio = stream.tracks.find((track) => track.sampleRate);
  const sound = audio && `${audio.codec}, ${audio.sampleRate / 1000} kHz`;
  return [
    ["Video", video ? `${video.codec}, ${video.width}×${video.height}` : "none"],
    ["Audio", sound ?? "none"],
    ["WebRTC", words(stream.deliveryPath.webrtc)],
    ["HLS", words(stream.deliveryPath.hls)],
    ["Viewers", `${stream.webRTCViewerCount} WebRTC, ${stream.hlsViewerCount} HLS`],
    ["Since", `${new Date(stream.startTime).toLocaleTimeString()}, by ${stream.publishType}`],
  ];
}

/** How each kind of track reaches these viewers, in words. */
function words(paths) {
  const parts = Object.entries(paths).map(([kind, how]) => `${kind}: ${how}`);
  return parts.join("; ") || "nothing to deliver";
}

function playAddress(app, streamId) {
  return `${encodeURIComponent(app)}/play.html?id=${encodeURIComponent(streamId)}`;
}

// What to type into the encoder.

function showPublish() {
  const app = $("app").value;
  const stream = $("stream").value;
  const port = rtmpPort === RTMP_PORT ? "" : `:${rtmpPort}`;
  // hostname already carries the brackets of an IPv6 address.
  const server = `rtmp://${location.hostname}${port}/${app}`;
  $("server").textContent = server;
  $("key").textContent = stream;
  $("ffmpeg").textContent =
    "ffmpeg -re -f lavfi -i testsrc2=size=1280x720:rate=30 -f lavfi -i sine=frequency=440:sample_rate=48000 " +
    `-c:v libx264 -preset veryfast -tune zerolatency -pix_fmt yuv420p -g 60 -b:v 2500k -c:a aac -b:a 128k -f flv "${server}/${stream}"`;
  $("browser").href = `${encodeURIComponent(app)}/publish.html?id=${encodeURIComponent(stream)}`;
  $("watch").textContent = new URL(playAddress(app, stream), location.href).href;
}

// What was kept.

async function showRecordings() {
  const answers = await Promise.allSettled(
    [...apps].map(async (app) => {
      const list = await ask(`${encodeURIComponent(app)}/rest/v2/vods/list/0/50`);
      return list.map((vod) => ({ app, ...vod }));
    }),
  );
  const list = answers.flatMap((answer) => answer.value ?? []);
  const refused = answers.some((answer) => answer.reason instanceof Refused);
  const reached = answers.some((answer) => answer.status === "fulfilled");
  list.sort((a, b) => b.creationDate - a.creationDate);
  $("recordings").hidden = !list.length;
  $("recordings-message").hidden = list.length > 0;
  $("recordings-message").textContent = refused
    ? "This server lists its recordings only to its own machine."
    : reached
      ? "No recordings yet."
      : "The server does not answer. Trying again…";
  $("recordings-rows").replaceChildren(...list.map(recordingRow));
}

function recordingRow(vod) {
  const path = vod.filePath ?? `streams/${vod.vodName}`;
  const file = `${encodeURIComponent(vod.app)}/${path.split("/").map(encodeURIComponent).join("/")}`;
  const play = `${encodeURIComponent(vod.app)}/play.html?id=${encodeURIComponent(path)}&playOrder=vod`;
  // What is not ready yet, or failed, has a word instead of links.
  const ready = vod.processStatus === "ready";
  const links = [element("a", { href: play, text: "Watch", "aria-label": `Watch ${vod.vodName}` })];
  // A playlist alone is of no use elsewhere.
  if (!path.endsWith(".m3u8")) {
    links.push(" ", element("a", { href: file, download: vod.vodName, text: "Download", "aria-label": `Download ${vod.vodName}` }));
  }
  const actions = ready ? element("td", {}, ...links) : element("td", { text: vod.processStatus, title: vod.description });
  return element(
    "tr",
    {},
    element("td", { text: `${vod.app}/${vod.vodName}` }),
    element("td", { text: new Date(vod.creationDate).toLocaleString() }),
    element("td", { text: length(vod.duration) }),
    element("td", { text: size(vod.fileSize) }),
    actions,
  );
}

/** Milliseconds as h:mm:ss. */
function length(ms) {
  const seconds = Math.round((ms ?? 0) / 1000);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let number = bytes ?? 0;
  while (number >= 1000 && units.length > 1) {
    number /= 1000;
    units.shift();
  }
  return `${number.toFixed(number < 10 && units[0] !== "B" ? 1 : 0)} ${units[0]}`;
}

async function showVersion() {
  const version = await ask("rest/v2/version").catch(() => null);
  if (!version) return;
  $("version").textContent = [version.versionName, version.versionType].filter(Boolean).join(" ");
  if (Number.isInteger(version.rtmpPort)) rtmpPort = version.rtmpPort;
  showPublish();
}

$("publish").addEventListener("input", showPublish);
$("publish").addEventListener("submit", (event) => event.preventDefault());
wireCopying($("publish"));
showPublish();
showVersion();
repeat(showLive, LIVE_MS);
repeat(showRecordings, RECORDINGS_MS);
