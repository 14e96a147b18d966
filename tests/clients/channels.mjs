// node channels.mjs ADDRESS APP ID
//
// A publisher (WHIP) and two viewers (WHEP) in Chromium who talk on data channels. Prints a line of JSON: what each of them
// heard, text as it is and binary as a list of bytes, what REST said, and whether pictures were flowing meanwhile.

import { foreignPage, openBrowser } from "./browser.mjs";

const [address, app, id] = process.argv.slice(2);
const { context, close } = await openBrowser();
const foreign = await foreignPage();
let report;
try {
  const publisher = await join("whip");
  const viewers = [await join("whep"), await join("whep")];
  const everybody = [publisher, ...viewers];

  // Nobody can be told nothing; what follows it must arrive all the same.
  await say(publisher, "");
  await say(publisher, '{"eventType":"MIC_MUTED"}');
  await say(publisher, [0, 255, 254, 1]);
  await Promise.all(viewers.map((viewer) => heard(viewer, 2)));
  await say(viewers[0], "grüße 👋");
  await heard(publisher, 1);
  await heard(viewers[1], 3);
  const rest = await fetch(`${address}/${app}/rest/v2/broadcasts/${id}/data`, { method: "POST", body: "from REST" });
  await Promise.all([heard(publisher, 2), heard(viewers[0], 3), heard(viewers[1], 4)]);

  report = {
    heard: await Promise.all(everybody.map((page) => page.evaluate(() => heard))),
    size: await publisher.evaluate(() => connection.sctp.maxMessageSize),
    rest: { status: rest.status, answer: await rest.json() },
    messages: await messages(),
    pictures: await Promise.all(viewers.map((page) => page.evaluate(pictures))),
  };
} catch (error) {
  report = { failed: String(error.stack ?? error) };
  process.exitCode = 1;
}
console.log(JSON.stringify(report));
await close();
foreign.close();
process.exit();

/** What REST counts by session, once it has counted all: the publisher first. */
async function messages() {
  for (const limit = Date.now() + 15_000; ; ) {
    const sessions = await (await fetch(`${address}/${app}/rest/v2/broadcasts/${id}/webrtc-client-stats/0/50`)).json();
    const counts = sessions.map(({ messagesSent, messagesReceived, messagesDropped }) => [messagesSent, messagesReceived, messagesDropped]);
    if (Date.now() > limit || counts.flat().reduce((sum, count) => sum + count, 0) === 14) return counts;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** A page with `connection`, `channel` (open) and `heard`. */
async function join(door) {
  const page = await context.newPage();
  await page.goto(foreign.url);
  await page.evaluate(
    async ({ door, url, label }) => {
      window.heard = [];
      window.connection = new RTCPeerConnection();
      if (door === "whip") {
        const canvas = document.createElement("canvas");
        const paint = canvas.getContext("2d");
        setInterval(() => ((paint.fillStyle = `hsl(${performance.now() % 360} 90% 50%)`), paint.fillRect(0, 0, 300, 150)), 33);
        connection.addTransceiver(canvas.captureStream(30).getVideoTracks()[0], { direction: "sendonly" });
      } else connection.addTransceiver("video", { direction: "recvonly" });
      window.channel = connection.createDataChannel(label);
      channel.binaryType = "arraybuffer";
      channel.onmessage = ({ data }) => heard.push(typeof data === "string" ? data : [...new Uint8Array(data)]);
      await connection.setLocalDescription();
      const headers = { "Content-Type": "application/sdp" };
      const body = connection.localDescription.sdp;
      const response = await fetch(url, { method: "POST", headers, body });
      const sdp = await response.text();
      if (response.status !== 201) throw new Error(`${door} answered ${response.status}: ${sdp}`);
      await connection.setRemoteDescription({ type: "answer", sdp });
    },
    { door, url: `${address}/${app}/${door}/${id}`, label: id },
  );
  await page.waitForFunction(() => channel.readyState === "open", null, { timeout: 20_000 });
  return page;
}

function say(page, what) {
  return page.evaluate((what) => channel.send(typeof what === "string" ? what : new Uint8Array(what)), what);
}

function heard(page, count) {
  return page.waitForFunction((count) => heard.length >= count, count, { timeout: 10_000 });
}

/** In the page: waits until some were decoded. */
async function pictures() {
  for (;;) {
    for (const stat of (await connection.getStats()).values()) {
      if (stat.type === "inbound-rtp" && stat.framesDecoded > 5) return stat.framesDecoded;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
