// node bench/joins.mjs ADDRESS [--joins=50] [--publish=ADDRESS]
//
// How long a viewer in Chromium waits: joins a WHEP address again and again, one after the other, and prints a line of JSON
// with the times of all joins, in milliseconds from the POST: its answer, the connection, the first decoded picture, and
// the first one that was shown. With --publish a second Chromium publishes its fake camera by WHIP at that address first.
// bench/joins.sh starts all that this needs.

import { foreignPage, openBrowser } from "../tests/clients/browser.mjs";

const [address, ...rest] = process.argv.slice(2);
const { joins = "50", publish } = Object.fromEntries(rest.map((word) => /^--(\w+)=(.*)$/.exec(word).slice(1)));
// Joins fall on all places of a gop of two seconds.
const PAUSE_MS = 700;

const foreign = await foreignPage();
const closes = [];

async function open(flags) {
  const { context, close } = await openBrowser(flags);
  closes.push(close);
  const page = await context.newPage();
  await page.goto(foreign.url);
  return page;
}

if (publish) {
  const page = await open(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]);
  await page.evaluate(async (address) => {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360, frameRate: 30 } });
    window.connection = new RTCPeerConnection();
    media.getTracks().forEach((track) => connection.addTransceiver(track, { direction: "sendonly", streams: [media] }));
    await connection.setLocalDescription();
    const headers = { "Content-Type": "application/sdp" };
    const response = await fetch(address, { method: "POST", headers, body: connection.localDescription.sdp });
    if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`);
    await connection.setRemoteDescription({ type: "answer", sdp: await response.text() });
    const open = () => connection.connectionState === "connected";
    await new Promise((resolve) => (connection.onconnectionstatechange = () => open() && resolve()));
    // Until its encoder has found its rate.
    await new Promise((resolve) => setTimeout(resolve, 5_000));
  }, publish);
}

const viewer = await open();
const seen = [];
// The first one pays for what the browser loads once.
for (let join = 0; join <= Number(joins); join += 1) {
  const times = await viewer.evaluate(async (address) => {
    const connection = new RTCPeerConnection();
    const video = Object.assign(document.createElement("video"), { autoplay: true, muted: true });
    document.body.append(video);
    const media = new MediaStream();
    let began;
    const since = () => performance.now() - began;
    const times = {};
    const decoded = new Promise((resolve) => {
      connection.ontrack = async ({ track }) => {
        media.addTrack(track);
        if (track.kind !== "video") return;
        const reader = new MediaStreamTrackProcessor({ track: track.clone() }).readable.getReader();
        const { value } = await reader.read();
        times.decoded = since();
        value.close();
        await reader.cancel();
        resolve();
      };
    });
    const shown = new Promise((resolve) => video.requestVideoFrameCallback(() => resolve((times.shown = since()))));
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === "connected") times.connected ??= since();
    };
    for (const kind of ["audio", "video"]) connection.addTransceiver(kind, { direction: "recvonly" });
    await connection.setLocalDescription();
    began = performance.now();
    const headers = { "Content-Type": "application/sdp" };
    const response = await fetch(address, { method: "POST", headers, body: connection.localDescription.sdp });
    const sdp = await response.text();
    times.answered = since();
    if (response.status !== 201) throw new Error(`${response.status}: ${sdp}`);
    video.srcObject = media;
    await connection.setRemoteDescription({ type: "answer", sdp });
    await Promise.race([Promise.all([decoded, shown]), new Promise((resolve) => setTimeout(resolve, 10_000))]);
    await fetch(new URL(response.headers.get("Location"), address), { method: "DELETE" });
    connection.close();
    video.remove();
    return times;
  }, address);
  if (join > 0) seen.push(times);
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}

function quantiles(name) {
  // Who never got as far is the slowest.
  const sorted = seen.map((times) => times[name] ?? Infinity).sort((a, b) => a - b);
  const at = (part) => Math.round(sorted[Math.ceil(part * sorted.length) - 1]);
  return { p50: at(0.5), p95: at(0.95), max: at(1) };
}

const names = ["answered", "connected", "decoded", "shown"];
console.log(JSON.stringify({ address, joins: seen.length, ...Object.fromEntries(names.map((name) => [name, quantiles(name)])) }));
await Promise.all(closes.map((close) => close()));
foreign.close();
process.exit(seen.every((times) => times.decoded !== undefined) ? 0 : 1);
