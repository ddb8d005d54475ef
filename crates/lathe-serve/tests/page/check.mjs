// The page in headless Chromium against a server of its own.
//
//     npm install && node check.mjs ../../../../target/release/lathe [MODEL]
//
// CHROMIUM names the browser (default: /usr/bin/chromium, Debian's package). Exit code 1 if something is not as it should be.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [lathe, model] = process.argv.slice(2);
const server = spawn(lathe, ["serve", "--port", "0", ...(model ? ["--model", model] : [])]);
const url = await new Promise((resolve, reject) => {
  createInterface({ input: server.stderr }).on("line", (line) => {
    const found = line.match(/listening on (\S+)/);
    if (found) resolve(found[1]);
  });
  server.on("exit", () => reject(new Error("the server did not start")));
});
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  const context = await browser.newContext();
  const page = await context.newPage();
  const elsewhere = [];
  page.on("request", (request) => request.url().startsWith(url) || elsewhere.push(request.url()));
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && !message.text().includes("favicon") && !message.text().includes("404") && errors.push(message.text()));
  await page.goto(url);
  const idle = () => page.waitForFunction(() => !document.getElementById("send").disabled);
  const ask = async (text) => {
    await page.fill("#input", text);
    await page.press("#input", "Enter");
  };

  // An answer comes, and a second one in the same conversation.
  await page.fill("#temperature", "0");
  await page.fill("#max_tokens", "24");
  await page.fill("#system", "You are brief.");
  await ask("What is the capital of Japan? <b>&amp;</b>");
  await idle();
  assert.equal(await page.locator(".message.user").innerText(), "What is the capital of Japan? <b>&amp;</b>");
  assert.ok((await page.locator(".message.assistant").innerText()).length > 0);
  await ask("And of France?");
  await idle();
  assert.equal(await page.locator(".message.assistant").count(), 2);

  // One that is stopped ends early and frees the engine.
  await page.click("#new");
  await page.fill("#max_tokens", "3000");
  await page.fill("#temperature", "1.5");
  await ask("Tell me a long story.");
  await page.waitForFunction(() => document.querySelector(".message.assistant")?.textContent.length > 10);
  await page.click("#stop");
  await idle();
  for (let tries = 0; ; tries++) {
    const engine = await (await fetch(url + "/engine")).json();
    if (engine.requests === 0 && engine.pages_held === 0) break;
    assert.ok(tries < 100, "a stopped answer goes on");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }

  // Conversations and parameters stay; the engine is shown.
  await page.reload();
  assert.equal(await page.locator("#conversations li").count(), 3);
  await page.locator("#conversations .open").last().click();
  assert.equal(await page.locator(".message").count(), 4);
  assert.equal(await page.inputValue("#system"), "You are brief.");
  await page.waitForFunction(() => document.getElementById("engine").innerText.includes("Pages held"));

  // A refusal is said.
  await page.fill("#temperature", "-1");
  await ask("Hello");
  await page.waitForSelector(".message.error");
  assert.match(await page.locator(".message.error").innerText(), /temperature/);
  assert.deepEqual(elsewhere, [], "something is fetched from elsewhere");
  assert.deepEqual(errors.filter((error) => !error.includes("400")), []);
  if (process.env.PICTURE) await page.screenshot({ path: process.env.PICTURE });
  console.log("ok");
} finally {
  await browser.close();
  server.kill("SIGTERM");
}
