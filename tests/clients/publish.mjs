// node publish.mjs MODE ADDRESS [--option[=value]]…
//
// Publishes from Chromium; see stage.mjs for what goes in and out. Modes:
//   whip      a plain WHIP client: --codec=H264|VP8|VP9|AV1, --simulcast (layers l, m, h), --kbps=N, --tcp,
//             --via=ADDRESS:PORT, --relay=ADDRESS (through TURN servers only, those that the address tells),
//             --forged (the fingerprint is another one's)
//   adaptor   Ant Media's JavaScript SDK at its WebSocket: --stream=ID
// Both: --id=N marks the picture, --size=WIDTHxHEIGHT, --no-audio, --no-video.
// Orders: "mute", "unmute", "hide", "show" (the picture), "camera N" takes another one, whose mark is N, "size WIDTHxHEIGHT" as
// when a shared window is resized, "restart" is an ICE restart, "say WORDS" goes by the SDK's data channel.

import * as antmedia from "./antmedia.mjs";
import { perform } from "./stage.mjs";

const FPS = 30;
const enable = (kind, enabled) => (page) =>
  page.evaluate(({ kind, enabled }) => (localMedia.getTracks().find((track) => track.kind === kind).enabled = enabled), { kind, enabled });

await perform({
  scripts: ["connections.js", "session.js", "source.js"],
  modes: {
    whip: async (page, address, options, foreign) => {
      await page.goto(foreign);
      await film(page, options);
      await openWhip(page, address, options);
    },
    adaptor: async (page, address, options, foreign) => {
      await page.goto(foreign);
      await film(page, options);
      await antmedia.publish(page, address, options.stream);
    },
  },
  orders: {
    mute: enable("audio", false),
    unmute: enable("audio", true),
    hide: enable("video", false),
    show: enable("video", true),
    size: (page, size) => page.evaluate(({ width, height }) => camera.resize(width, height), parsed(size)),
    camera: (page, id) => page.evaluate(switchCamera, { id: Number(id), fps: FPS }),
    restart: (page) => page.evaluate(() => session.restart()),
    say: antmedia.say,
  },
  figures,
});

function parsed(size) {
  const [width, height] = size.split("x").map(Number);
  return { width, height };
}

/** Makes `window.localMedia`, and `window.camera` for its picture. */
async function film(page, options) {
  const { id = 1, size = "640x360", "no-audio": mute, "no-video": blind } = options;
  await page.evaluate(
    ({ id, width, height, fps, video, audio }) => {
      window.localMedia = new MediaStream();
      if (audio) localMedia.addTrack(beeps());
      if (!video) return;
      window.camera = new Camera({ id, width, height, fps });
      localMedia.addTrack(camera.track);
    },
    { id: Number(id), ...parsed(size), fps: FPS, video: !blind, audio: !mute },
  );
}

async function openWhip(page, address, { codec, simulcast, kbps, tcp, via, relay, forged }) {
  await page.evaluate(
    async ({ address, codec, simulcast, kbps, tcp, via, relay, forged }) => {
      const connection = new RTCPeerConnection(await relayOnly(relay));
      const [sound] = localMedia.getAudioTracks();
      const [picture] = localMedia.getVideoTracks();
      const common = { direction: "sendonly", streams: [localMedia] };
      if (sound) connection.addTransceiver(sound, common);
      if (picture) {
        const layers = [
          { rid: "l", scaleResolutionDownBy: 4, maxBitrate: 150_000 },
          { rid: "m", scaleResolutionDownBy: 2, maxBitrate: 500_000 },
          { rid: "h", maxBitrate: 1_500_000 },
        ];
        const sendEncodings = simulcast ? layers : [{ maxBitrate: 1000 * kbps }];
        const transceiver = connection.addTransceiver(picture, { ...common, sendEncodings });
        if (codec) {
          const { codecs } = RTCRtpSender.getCapabilities("video");
          const wanted = new RegExp(`/(${codec}|rtx)$`, "i");
          transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => wanted.test(mimeType)));
        }
      }
      window.session = new Session(connection, address, { tcp, via, forged });
      window.stopped = () => session.close();
      await session.open();
    },
    { address, codec, simulcast: Boolean(simulcast), kbps: Number(kbps ?? 1200), tcp, via, relay, forged },
  );
}

/** In the page, as are the two below. */
async function switchCamera({ id, fps }) {
  const { width, height } = camera.canvas;
  const next = new Camera({ id, width, height, fps });
  const sender = session.connection.getSenders().find(({ track }) => track === camera.track);
  await sender.replaceTrack(next.track);
  localMedia.removeTrack(camera.track);
  localMedia.addTrack(next.track);
  camera.stop();
  window.camera = next;
}

async function figures() {
  return {
    seconds: (performance.now() - (window.asked_at ?? performance.now())) / 1000,
    rtc: await rtcReport(),
    session: window.session?.report ?? null,
    antmedia: window.antmediaReport?.() ?? null,
  };
}
