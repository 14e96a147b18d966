// node watch.mjs page|whep|hls ADDRESS [--tcp] [--relay[=ADDRESS]] [--classic] [--seconds=60]
//
// Watches one stream in Chromium: `page` our own player (with --relay through TURN servers only), `whep` a plain WHEP client
// (likewise, through those that the address tells), `hls` hls.js (low-latency, or not with --classic). Prints a line of JSON
// with its figures twice a second until "stop" or the end of stdin; "reset" begins a new measurement, "hls" or "webrtc" presses
// that button of our player. The last line has `"last": true`.

import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { foreignPage, onlyRelays, openBrowser } from "./browser.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const [mode, address, ...rest] = process.argv.slice(2);
const options = Object.fromEntries(rest.map((word) => word.replace(/^--/, "").split("=")).map(([key, value]) => [key, value ?? true]));
const seconds_max = Number(options.seconds ?? 60);
const say = (report) => console.log(JSON.stringify(report));

const { context, close } = await openBrowser();
const foreign = await foreignPage();
const errors = [];
let failed = null;
const orders = [];
let wake = () => {};

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => (orders.push(line.trim()), wake()))
  .on("close", () => (orders.push("stop"), wake()));

try {
  const page = await context.newPage();
  page.on("pageerror", (error) => errors.push(`page: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text().slice(0, 300)));
  await page.addInitScript({ content: fs.readFileSync(path.join(here, "probe.js"), "utf8") });
  if (mode === "page" && options.relay) await page.addInitScript(onlyRelays);
  if (mode === "page") await openPlayer(page);
  else if (mode === "whep") await openWhep(page);
  else if (mode === "hls") await openHls(page);
  else throw new Error(`no such mode: ${mode}`);
  await watch(page);
} catch (error) {
  failed = String(error.stack ?? error);
  process.exitCode = 1;
}
if (failed) say({ last: true, failed, errors });
await close();
foreign.close();
process.exit();

async function watch(page) {
  const end = Date.now() + 1000 * seconds_max;
  for (;;) {
    const order = orders.shift();
    if (order === "reset") await page.evaluate(() => probe.reset());
    if (order === "hls" || order === "webrtc") await page.check(`input[value=${order}]`, { force: true });
    const last = order === "stop" || Date.now() > end;
    const report = await page.evaluate(figures);
    if (last) report.stopped = await page.evaluate(() => window.stopWatching?.() ?? null);
    say({ ...report, errors, last });
    if (last) return;
    if (orders.length) continue;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 500);
    });
  }
}

/** In the page. */
async function figures() {
  // Sound is tapped once something plays: the source of a <video> cannot change afterwards.
  const playing = probe.video.readyState >= 3 && !probe.video.paused;
  if (playing && probe.heard !== probe.video.srcObject) {
    if (probe.video.srcObject || !probe.audio) probe.listen();
    probe.heard = probe.video.srcObject;
  }
  return {
    ...probe.report(),
    first_picture_ms: probe.first_at === null ? null : Math.round(probe.first_at - (window.asked_at ?? 0)),
    rtc: await rtcReport(),
    hls: window.hlsReport?.() ?? null,
    whep: window.whepReport ?? null,
    page: {
      ...document.body.dataset,
      words: document.getElementById("notice")?.hidden === false ? document.getElementById("headline").innerText : "",
      path: document.getElementById("path")?.innerText,
      protocol: document.getElementById("protocol")?.innerText,
      delay: document.getElementById("delay")?.innerText,
    },
  };
}

async function openPlayer(page) {
  await page.goto(address);
  await page.evaluate(() => (window.probe = new Probe(document.querySelector("video"))));
}

async function newVideo(page) {
  await page.goto(foreign.url);
  await page.evaluate(() => {
    const video = document.createElement("video");
    video.autoplay = video.playsInline = true;
    video.crossOrigin = "anonymous";
    document.body.append(video);
    window.probe = new Probe(video);
  });
}

async function openWhep(page) {
  await newVideo(page);
  await page.evaluate(
    async ({ address, tcp, relay }) => {
      const told = relay ? await (await fetch(relay)).json() : {};
      const connection = new RTCPeerConnection({ ...told, iceTransportPolicy: relay ? "relay" : "all" });
      const media = new MediaStream();
      connection.addTransceiver("audio", { direction: "recvonly" });
      connection.addTransceiver("video", { direction: "recvonly" });
      connection.ontrack = ({ track }) => media.addTrack(track);
      await connection.setLocalDescription();
      const headers = { "Content-Type": "application/sdp" };
      const response = await fetch(address, { method: "POST", headers, body: connection.localDescription.sdp });
      let answer = await response.text();
      const location = response.headers.get("Location");
      window.whepReport = { status: response.status, location, answer };
      if (response.status !== 201) throw new Error(`WHEP answered ${response.status}: ${answer}`);
      window.asked_at = performance.now();
      if (tcp) answer = answer.replace(/^a=candidate:\S+ \d+ udp .*\r\n/gim, "");
      await connection.setRemoteDescription({ type: "answer", sdp: answer });
      probe.video.srcObject = media;
      window.stopWatching = async () => {
        const gone = await fetch(new URL(location, address), { method: "DELETE" });
        connection.close();
        return gone.status;
      };
    },
    { address, tcp: Boolean(options.tcp), relay: options.relay },
  );
}

async function openHls(page) {
  await newVideo(page);
  await page.addScriptTag({ path: path.join(here, "node_modules/hls.js/dist/hls.min.js") });
  await page.evaluate(
    ({ address, lowLatency }) => {
      const player = new Hls({ lowLatencyMode: lowLatency });
      const seen = { errors: [], discontinuities: 0, reloads: 0, sequences: [] };
      player.on(Hls.Events.ERROR, (_, data) => {
        seen.errors.push({ details: data.details, fatal: data.fatal, status: data.response?.code });
        if (data.fatal && data.type === Hls.ErrorTypes.MEDIA_ERROR) player.recoverMediaError();
      });
      player.on(Hls.Events.LEVEL_UPDATED, (_, { details }) => {
        seen.reloads += 1;
        if (seen.sequences.at(-1) !== details.startSN) seen.sequences.push(details.startSN);
        seen.end_sequence = details.endSN;
        seen.discontinuity = details.endCC;
        seen.live = details.live;
        seen.part_target = details.partTarget;
        seen.target = details.targetduration;
        seen.blocking = details.canBlockReload;
      });
      player.on(Hls.Events.MANIFEST_PARSED, (_, { levels }) => {
        seen.levels = levels.map(({ width, height, videoCodec, audioCodec, bitrate }) => ({ width, height, videoCodec, audioCodec, bitrate }));
      });
      window.asked_at = performance.now();
      window.hlsReport = () => ({ ...seen, latency_s: player.latency, target_latency_s: player.targetLatency });
      player.loadSource(address);
      player.attachMedia(probe.video);
    },
    { address, lowLatency: !options.classic },
  );
}
