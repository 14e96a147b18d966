// Ant Media's own clients from npm, unmodified: the JavaScript SDK publishing and playing, and the web player.
// In the page, `window.adaptor` is the SDK; `window.antmediaReport` tells what it called back with.

const SDK = "/@antmedia/webrtc_adaptor/dist/es/index.js";
const PLAYER = "/@antmedia/web_player/dist/es/index.js";

/** Makes the SDK; its first command goes out once it says that it is ready. */
async function connect(page, address, stream, settings, first) {
  await page.evaluate(
    async ({ sdk, address, stream, settings, first }) => {
      const { WebRTCAdaptor } = await import(sdk);
      const seen = { events: [], errors: [], data: [] };
      window.antmediaReport = () => seen;
      window.adaptor = new WebRTCAdaptor({
        websocket_url: address,
        // Its default asks a STUN server on the Internet.
        peerconnection_config: { iceServers: [] },
        ...settings,
        localStream: window.localMedia,
        remoteVideoElement: window.probe?.video,
        callback: (event, detail) => {
          if (event === "initialized") adaptor[first](stream);
          if (event === "data_received") seen.data.push(detail.data);
          if (event === "streamInformation") seen.heights = detail.streamInfo.map(({ streamHeight }) => streamHeight);
          if (event !== "pong" && event !== "updated_stats") seen.events.push(event);
        },
        callbackError: (error, message) => seen.errors.push(`${error}: ${message?.definition ?? message ?? ""}`),
      });
      window.asked_at = performance.now();
      window.antmediaStream = stream;
      window.stopped = () => adaptor.stop(stream);
    },
    { sdk: SDK, address, stream, settings, first },
  );
}

/** What is published is `window.localMedia`. */
export const publish = (page, address, stream) =>
  connect(page, address, stream, { mediaConstraints: { video: true, audio: true } }, "publish");

export const play = (page, address, stream) =>
  connect(page, address, stream, { isPlayMode: true, mediaConstraints: { video: false, audio: false } }, "play");

export const say = (page, words) => page.evaluate((words) => adaptor.sendData(antmediaStream, words), words);

export const info = (page) => page.evaluate(() => adaptor.getStreamInfo(antmediaStream));

export const quality = (page, height) =>
  page.evaluate((height) => adaptor.forceStreamQuality(antmediaStream, height), Number(height));

/** As Ant Media's play.html does it. */
export async function openPlayer(page, address, stream, order = "webrtc,hls") {
  await page.evaluate(
    async ({ module, address, stream, order }) => {
      const { WebPlayer } = await import(module);
      const [container, placeholder] = [document.createElement("div"), document.createElement("div")];
      container.style.cssText = "width: 640px; height: 360px";
      document.body.append(container, placeholder);
      const settings = { streamId: stream, httpBaseURL: address, playOrder: order.split(","), iceServers: "[]" };
      const player = new WebPlayer(settings, container, placeholder);
      window.asked_at = performance.now();
      window.antmediaReport = () => ({ way: player.currentPlayType });
      window.stopped = () => player.destroy();
      await player.initialize();
      await player.play();
    },
    { module: PLAYER, address, stream, order },
  );
  // It makes a new element for each attempt.
  await page.waitForFunction(() => document.querySelector("video")?.readyState >= 2);
}
