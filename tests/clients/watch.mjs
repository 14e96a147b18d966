// node watch.mjs MODE ADDRESS [--option[=value]]…
//
// Watches one stream in Chromium; see stage.mjs for what goes in and out. Modes:
//   page      our own player; with --relay through TURN servers only
//   whep      a plain WHEP client: --tcp, --via=ADDRESS:PORT, --relay=ADDRESS (through TURN
//             servers only, those that the address tells)
//   hls       hls.js, low-latency or --classic
//   adaptor   Ant Media's JavaScript SDK at its WebSocket: --stream=ID
//   player    Ant Media's web player with the application's address: --stream=ID [--order=webrtc,hls]
// Orders: "reset" begins a new measurement, "hls" and "webrtc" press that button of our player, "say WORDS" goes by the
// SDK's data channel, "info" asks by the SDK for the qualities, "quality HEIGHT" forces one (0: none).

import path from "node:path";
import * as antmedia from "./antmedia.mjs";
import { here, onlyRelays } from "./browser.mjs";
import { perform } from "./stage.mjs";

const press = (button) => (page) => page.check(`input[value=${button}]`, { force: true });

await perform({
  scripts: ["connections.js", "session.js", "probe.js"],
  modes: {
    page: openPlayer,
    whep: openWhep,
    hls: openHls,
    adaptor: async (page, address, { stream }, foreign) => {
      await newVideo(page, foreign);
      await antmedia.play(page, address, stream);
    },
    player: async (page, address, { stream, order }, foreign) => {
      await page.goto(foreign);
      await antmedia.openPlayer(page, address, stream, order);
      await page.evaluate(() => (window.probe = new Probe(document.querySelector("video"))));
    },
  },
  orders: {
    reset: (page) => page.evaluate(() => probe.reset()),
    hls: press("hls"),
    webrtc: press("webrtc"),
    say: antmedia.say,
    info: antmedia.info,
    quality: antmedia.quality,
  },
  figures,
});

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
    session: window.session?.report ?? null,
    antmedia: window.antmediaReport?.() ?? null,
    page: {
      ...document.body.dataset,
      words: document.getElementById("notice")?.hidden === false ? document.getElementById("headline").innerText : "",
      path: document.getElementById("path")?.innerText,
      protocol: document.getElementById("protocol")?.innerText,
      delay: document.getElementById("delay")?.innerText,
    },
  };
}

async function openPlayer(page, address, { relay }) {
  if (relay) await page.addInitScript(onlyRelays);
  await page.goto(address);
  await page.evaluate(() => (window.probe = new Probe(document.querySelector("video"))));
}

async function newVideo(page, foreign) {
  await page.goto(foreign);
  await page.evaluate(() => {
    const video = document.createElement("video");
    video.autoplay = video.playsInline = true;
    video.crossOrigin = "anonymous";
    document.body.append(video);
    window.probe = new Probe(video);
  });
}

async function openWhep(page, address, { tcp, via, relay }, foreign) {
  await newVideo(page, foreign);
  await page.evaluate(
    async ({ address, tcp, via, relay }) => {
      const connection = new RTCPeerConnection(await relayOnly(relay));
      const media = new MediaStream();
      connection.addTransceiver("audio", { direction: "recvonly" });
      connection.addTransceiver("video", { direction: "recvonly" });
      connection.ontrack = ({ track }) => media.addTrack(track);
      window.session = new Session(connection, address, { tcp, via });
      window.stopped = () => session.close();
      await session.open();
      probe.video.srcObject = media;
    },
    { address, tcp, via, relay },
  );
}

async function openHls(page, address, { classic }, foreign) {
  await newVideo(page, foreign);
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
    { address, lowLatency: !classic },
  );
}
