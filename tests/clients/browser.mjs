// A headless Chromium that plays without a click, speaks WebRTC over loopback and talks to nobody else.

import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const here = path.dirname(fileURLToPath(import.meta.url));

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-sync",
  "--disable-background-timer-throttling",
  "--disable-backgrounding-occluded-windows",
  "--disable-renderer-backgrounding",
  "--autoplay-policy=no-user-gesture-required",
  "--mute-audio",
  "--allow-loopback-in-peer-connection",
  // A name for the loopback that is no "localhost": pages from there are not secure.
  "--host-resolver-rules=MAP insecure.test 127.0.0.1 , MAP * ~NOTFOUND , EXCLUDE 127.* , EXCLUDE 10.77.* , EXCLUDE localhost",
  "--disable-features=WebRtcHideLocalIpsWithMdns,Translate,OptimizationHints,MediaRouter",
];

/** `flags` go before those that every page here needs. */
export async function openBrowser(flags = []) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    chromiumSandbox: false,
    // The probe runs inside pages that forbid foreign scripts.
    bypassCSP: true,
    viewport: { width: 1280, height: 800 },
    ignoreDefaultArgs: true,
    args: [...flags, ...FLAGS, "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"],
  });
  const close = async () => {
    await context.close().catch(() => {});
    fs.rmSync(profile, { recursive: true, force: true });
  };
  return { context, close };
}

/** For addInitScript(): a network that lets nothing through but TURN. */
export function onlyRelays() {
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(settings) {
      super({ ...settings, iceTransportPolicy: "relay" });
    }
  };
}

/** An origin that is not the server's: what plays from here has passed CORS. It also serves the npm packages' modules. */
export async function foreignPage() {
  const server = http.createServer((request, response) => {
    const module = /^\/(@antmedia\/[\w/.-]+\.js)$/.exec(request.url)?.[1];
    const file = module && path.join(here, "node_modules", module);
    if (file && fs.existsSync(file)) {
      response.writeHead(200, { "Content-Type": "text/javascript" });
      fs.createReadStream(file).pipe(response);
      return;
    }
    response.writeHead(200, { "Content-Type": "text/html" });
    response.end("<!doctype html><title>viewer</title><body></body>");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}
