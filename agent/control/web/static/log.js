// The log of one attempt and channel, followed live and resumed by offset after a lost connection.

import { Terminal } from "./terminal.js";

const TAIL_BYTES = 1024 * 1024;
const FIRST_PAUSE = 500;
const MAX_PAUSE = 15000;

class Reader {
  constructor(panel) {
    this.panel = panel;
    this.screen = panel.querySelector(".log");
    this.foot = panel.querySelector("[data-log-state]");
    this.terminal = null;
    this.url = null;
    this.position = null;
    this.abort = null;
    const follow = panel.querySelector("[data-follow]");
    follow?.closest("label").removeAttribute("hidden");
    follow?.addEventListener("change", () => {
      this.screen.dataset.follow = follow.checked ? "yes" : "no";
      if (follow.checked) this.screen.scrollTop = this.screen.scrollHeight;
    });
    // A browser opens few connections to one server, so hidden pages close theirs.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.disconnect() : this.update()));
    addEventListener("pagehide", () => this.disconnect());
    addEventListener("pageshow", () => this.update());
  }

  disconnect() {
    this.abort?.abort();
    this.abort = null;
  }

  // The server's markup names the log to show; reading another one ends when that changes.
  update() {
    const url = document.getElementById("log-source")?.dataset.url;
    if (!url || document.hidden || (url === this.url && this.abort)) return;
    this.disconnect();
    if (url !== this.url) this.position = null;
    this.url = url;
    this.abort = new AbortController();
    this.read(url, this.abort.signal).catch((error) => {
      if (error.name !== "AbortError") this.showStatus(`The log cannot be read: ${error.message}`);
    });
  }

  async read(url, signal) {
    let pause = FIRST_PAUSE;
    const position = this.position ?? await this.begin(url, signal);
    signal.throwIfAborted();
    this.position = position;
    while (!signal.aborted) {
      const before = position.offset;
      const answer = await this.follow(url, position, signal);
      if (answer === "complete") { this.finish(position); return; }
      if (answer === "refused") return;
      pause = position.offset > before ? FIRST_PAUSE : Math.min(pause * 2, MAX_PAUSE);
      this.showStatus("Connection lost; trying again…");
      await new Promise((resolve) => { setTimeout(resolve, pause); });
    }
  }

  async begin(url, signal) {
    const position = { offset: 0, skipLine: false, decoder: new TextDecoder() };
    try {
      const head = await fetch(url, { method: "HEAD", signal });
      const end = Number(head.headers.get("Launch-Log-End") || 0);
      if (end > TAIL_BYTES) { position.offset = end - TAIL_BYTES; position.skipLine = true; }
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    signal.throwIfAborted();
    this.screen.dataset.follow ??= "yes";
    this.terminal = new Terminal(this.screen);
    if (position.offset > 0) {
      this.terminal.write(`\x1b[2m… ${size(position.offset)} not shown here; download the log to see all of it …\x1b[0m\n`);
    }
    return position;
  }

  async follow(url, position, signal) {
    try {
      const address = new URL(url, location.href);
      address.searchParams.set("follow", "1");
      address.searchParams.set("offset", String(position.offset));
      const response = await fetch(address, { signal });
      if (response.status === 404) return this.refuse("This log is not here any more.");
      if (response.status === 401 || response.status === 403) return this.refuse("Sign in again to read this log.");
      if (!response.ok) return "cut";
      this.showStatus("Live");
      await this.drain(response.body.getReader(), position);
      return await this.isComplete(url, position, signal) ? "complete" : "cut";
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return "cut";
    }
  }

  async drain(reader, position) {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      position.offset += value.length;
      this.show(position, value);
    }
  }

  show(position, value) {
    let bytes = value;
    if (position.skipLine) {
      const end = bytes.indexOf(10);
      if (end < 0) return;
      bytes = bytes.subarray(end + 1);
      position.skipLine = false;
    }
    this.terminal.write(position.decoder.decode(bytes, { stream: true }));
  }

  async isComplete(url, position, signal) {
    const head = await fetch(url, { method: "HEAD", signal });
    const end = Number(head.headers.get("Launch-Log-End") || 0);
    return head.ok && head.headers.get("Launch-Log-Complete") === "true" && position.offset >= end;
  }

  finish(position) {
    this.showStatus(position.offset === 0 ? "Nothing was written." : `Complete, ${size(position.offset)}`);
  }

  refuse(text) {
    this.showStatus(text);
    return "refused";
  }

  showStatus(text) {
    this.foot.textContent = text;
  }
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

const panel = document.querySelector("[data-log-panel]");
if (panel) {
  const reader = new Reader(panel);
  reader.update();
  document.addEventListener("launch:updated", () => reader.update());
}
