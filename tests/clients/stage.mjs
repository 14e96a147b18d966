// What the scripts here have in common: `node SCRIPT MODE ADDRESS [--option[=value]]…` opens a page in Chromium and prints a
// line of JSON with its figures twice a second, until "stop" or the end of stdin. Other lines of stdin are orders to the
// page. The last line has `"last": true`.

import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { foreignPage, here, openBrowser } from "./browser.mjs";

const [mode, address, ...rest] = process.argv.slice(2);
const options = Object.fromEntries(
  rest.map((word) => /^--([^=]+)(?:=(.*))?$/s.exec(word)).map(([, key, value]) => [key, value ?? true]),
);

/**
 * `scripts` are put into every page. `modes` open theirs: `(page, address, options, foreign page's address)`.
 * `figures` runs in the page; so does `window.stopped`, at the end. `orders` are `(page, what follows the word)`.
 */
export async function perform({ scripts, modes, orders, figures, flags }) {
  const { context, close } = await openBrowser(flags);
  const foreign = await foreignPage();
  const heard = [];
  const errors = [];
  let wake = () => {};
  const say = (report) => console.log(JSON.stringify({ ...report, errors }));
  readline
    .createInterface({ input: process.stdin })
    .on("line", (line) => (heard.push(line.trim()), wake()))
    .on("close", () => (heard.push("stop"), wake()));

  async function play(page) {
    const end = Date.now() + 1000 * Number(options.seconds ?? 60);
    for (;;) {
      const [order, ...words] = (heard.shift() ?? "").split(" ");
      const last = order === "stop" || Date.now() > end;
      if (order && !last) await orders[order](page, words.join(" "));
      const report = await page.evaluate(figures);
      if (last) report.stopped = await page.evaluate(() => window.stopped?.() ?? null);
      say({ ...report, last });
      if (last) return;
      if (heard.length) continue;
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, 500);
      });
    }
  }

  try {
    const page = await context.newPage();
    page.on("pageerror", (error) => errors.push(`page: ${error.message}`));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text().slice(0, 300)));
    for (const script of scripts) await page.addInitScript({ content: fs.readFileSync(path.join(here, script), "utf8") });
    await modes[mode](page, address, options, foreign.url);
    await play(page);
  } catch (error) {
    say({ last: true, failed: String(error.stack ?? error) });
    process.exitCode = 1;
  }
  await close();
  foreign.close();
  process.exit();
}
