// The log of one attempt and channel, read as it arrives and resumed by offset when cut.

import { Terminal } from "./terminal.js";

const TAIL_BYTES = 1024 * 1024;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15000;

class Reader {
  constructor(panel) {
    this.panel = panel;
    this.screen = panel.querySelector(".log");
    this.foot = panel.querySelector("[data-log-state]");
    this.terminal = null;
    this.url = null;
    this.place = null;
    this.abort = null;
    const follow = panel.querySelector("[data-follow]");
    follow?.closest("label").removeAttribute("hidden");
    follow?.addEventListener("change", () => {
      this.screen.dataset.follow = follow.checked ? "yes" : "no";
      if (follow.checked) this.screen.scrollTop = this.screen.scrollHeight;
    });
    // A browser has few connections to one server: hidden pages give theirs back.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.leave() : this.look()));
    addEventListener("pagehide", () => this.leave());
    addEventListener("pageshow", () => this.look());
  }

  leave() {
    this.abort?.abort();
    this.abort = null;
  }

  // Which log to show is said by the server; when it changes, the old one is left.
  look() {
    const url = document.getElementById("log-source")?.dataset.url;
    if (!url || document.hidden || (url === this.url && this.abort)) return;
    this.leave();
    if (url !== this.url) this.place = null;
    this.url = url;
    this.abort = new AbortController();
    this.read(url, this.abort.signal).catch((error) => {
      if (error.name !== "AbortError") this.say(`The log cannot be read: ${error.message}`);
    });
  }

  async read(url, signal) {
    let pause = FIRST_PAUSE;
    const place = this.place ?? await this.begin(url, signal);
    signal.throwIfAborted();
    this.place = place;
    while (!signal.aborted) {
      const before = place.offset;
      const answer = await this.follow(url, place, signal);
      if (answer === "complete") { this.finish(place); return; }
      if (answer === "refused") return;
      pause = place.offset > before ? FIRST_PAUSE : Math.min(pause * 2, LONGEST_PAUSE);
      this.say("Connection lost; trying again…");
      await new Promise((resolve) => { setTimeout(resolve, pause); });
    }
  }

  async begin(url, signal) {
    const place = { offset: 0, skipLine: false, decoder: new TextDecoder() };
    try {
      const head = await fetch(url, { method: "HEAD", signal });
      const end = Number(head.headers.get("Launch-Log-End") || 0);
      if (end > TAIL_BYTES) { place.offset = end - TAIL_BYTES; place.skipLine = true; }
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    signal.throwIfAborted();
    this.screen.dataset.follow ??= "yes";
    this.terminal = new Terminal(this.screen);
    if (place.offset > 0) {
      this.terminal.write(`\x1b[2m… ${size(place.offset)} left out here; the raw log has all of it …\x1b[0m\n`);
    }
    return place;
  }

  async follow(url, place, signal) {
    try {
      const address = new URL(url, location.href);
      address.searchParams.set("follow", "1");
      address.searchParams.set("offset", String(place.offset));
      const response = await fetch(address, { signal });
      if (response.status === 404) return this.refuse("This log is not here any more.");
      if (response.status === 401 || response.status === 403) return this.refuse("Sign in again to read this log.");
      if (!response.ok) return "cut";
      this.say("Live");
      await this.drain(response.body.getReader(), place);
      return await this.isComplete(url, place, signal) ? "complete" : "cut";
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return "cut";
    }
  }

  async drain(reader, place) {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      place.offset += value.length;
      this.show(place, value);
    }
  }

  show(place, value) {
    let bytes = value;
    if (place.skipLine) {
      const end = bytes.indexOf(10);
      if (end < 0) return;
      bytes = bytes.subarray(end + 1);
      place.skipLine = false;
    }
    this.terminal.write(place.decoder.decode(bytes, { stream: true }));
  }

  async isComplete(url, place, signal) {
    const head = await fetch(url, { method: "HEAD", signal });
    const end = Number(head.headers.get("Launch-Log-End") || 0);
    return head.ok && head.headers.get("Launch-Log-Complete") === "true" && place.offset >= end;
  }

  finish(place) {
    this.say(place.offset === 0 ? "Nothing was written." : `Complete, ${size(place.offset)}`);
  }

  refuse(text) {
    this.say(text);
    return "refused";
  }

  say(text) {
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
  reader.look();
  document.addEventListener("launch:updated", () => reader.look());
}
