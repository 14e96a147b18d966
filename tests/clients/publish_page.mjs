// node publish_page.mjs ADDRESS [--camera=fake|refused|none] [--phone] [--relay] [--seconds=60]
//
// Uses our publish page in Chromium (with --relay through TURN servers only). Prints a line of JSON with what one sees there twice a second until "stop" or the end of
// stdin; "click ID", "choose ID VALUE", "tick ID", "press KEY", "script CODE" and "picture FILE" are done in their turn. With
// "stop" the page is left as by a click on a link. The last line has `"last": true`.

import readline from "node:readline";
import { onlyRelays, openBrowser } from "./browser.mjs";

const [address, ...rest] = process.argv.slice(2);
const options = Object.fromEntries(rest.map((word) => word.replace(/^--/, "").split("=")).map(([key, value]) => [key, value ?? true]));
const seconds_max = Number(options.seconds ?? 60);
const FLAGS = {
  fake: ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--auto-select-desktop-capture-source=Entire screen"],
  refused: ["--use-fake-device-for-media-stream", "--deny-permission-prompts"],
  none: ["--use-fake-ui-for-media-stream"],
};
const say = (report) => console.log(JSON.stringify(report));

const { context, close } = await openBrowser(FLAGS[options.camera ?? "fake"]);
const errors = [];
const requests = [];
const orders = [];
let wake = () => {};

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => (orders.push(line.trim()), wake()))
  .on("close", () => (orders.push("stop"), wake()));

try {
  const page = await context.newPage();
  if (options.phone) await page.setViewportSize({ width: 390, height: 844 });
  if (options.relay) await page.addInitScript(onlyRelays);
  page.on("pageerror", (error) => errors.push(`page: ${error.message}`));
  page.on("response", (response) => {
    const method = response.request().method();
    if (method !== "GET") requests.push(`${method} ${response.status()}`);
  });
  await page.goto(address);
  await page.evaluate(countPictures);
  await use(page);
} catch (error) {
  say({ last: true, failed: String(error.stack ?? error), errors });
  process.exitCode = 1;
}
await close();
process.exit();

async function use(page) {
  const end = Date.now() + 1000 * seconds_max;
  for (;;) {
    const [order, id, ...words] = (orders.shift() ?? "").split(" ");
    const word = words.join(" ");
    if (order === "click") await page.click(`#${id}`);
    if (order === "choose") await page.selectOption(`#${id}`, word);
    if (order === "tick") await page.setChecked(`#${id}`, true);
    if (order === "press") await page.keyboard.press(id);
    if (order === "script") await page.evaluate([id, word].join(" "));
    if (order === "picture") await page.screenshot({ path: id, fullPage: true });
    const last = order === "stop" || Date.now() > end;
    say({ ...(await page.evaluate(seen)), requests, errors, last });
    if (last) {
      await page.goto("about:blank");
      return;
    }
    if (orders.length) continue;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 500);
    });
  }
}

/** In the page. */
function countPictures() {
  const video = document.querySelector("video");
  window.pictures = 0;
  const each = () => {
    window.pictures += 1;
    video.requestVideoFrameCallback(each);
  };
  video.requestVideoFrameCallback(each);
}

/** In the page. */
function seen() {
  const text = (id) => {
    const part = document.getElementById(id);
    return part.checkVisibility() ? part.innerText : "";
  };
  const options = (id) => [...document.getElementById(id).options].map(({ text, value }) => ({ text, value }));
  return {
    state: document.body.dataset.state ?? "",
    status: text("status"),
    headline: text("headline"),
    explanation: text("explanation"),
    trouble: text("trouble"),
    act: text("act"),
    start: text("start"),
    mute: text("mute"),
    secure: document.getElementById("secure").href,
    watch: document.getElementById("watch").innerText,
    whip: document.getElementById("whip").innerText,
    loudness: document.getElementById("level").value,
    mirrored: document.querySelector("video").classList.contains("mirrored"),
    pictures: window.pictures,
    cameras: options("picture"),
    microphones: options("sound"),
    codecs: options("codec").map(({ value }) => value),
    video: text("codec-video"),
    audio: text("codec-audio"),
    bitrate: parseFloat(text("bitrate")),
    loss: parseFloat(text("loss")),
    round_trip_ms: parseFloat(text("roundtrip")),
    path: text("path"),
    limited: text("limited"),
    duration: text("duration"),
  };
}
