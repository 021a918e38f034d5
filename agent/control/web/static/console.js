// The console output of a run, followed live. A process may write its last lines again, as with
// progress bars, so that these are read again.

import { Terminal } from "./terminal.js";

const AGAIN_LINES = 100;
const MAX_LINES = 5000;

class Console {
  constructor(panel) {
    this.panel = panel;
    this.screen = panel.querySelector(".log");
    this.foot = panel.querySelector("[data-log-state]");
    this.rows = new Map();
    this.end = 0;
    this.follows = true;
    const follow = panel.querySelector("[data-follow]");
    follow.closest("label").removeAttribute("hidden");
    follow.addEventListener("change", () => {
      this.follows = follow.checked;
      this.scroll(true);
    });
  }

  async update() {
    this.again = true;
    if (this.reading) return;
    this.reading = true;
    while (this.again) {
      this.again = false;
      await this.read();
    }
    this.reading = false;
  }

  async read() {
    const address = new URL(this.panel.dataset.url, location.href);
    address.searchParams.set("first", String(Math.max(0, this.end - AGAIN_LINES)));
    try {
      const response = await fetch(address);
      if (response.redirected || response.status === 401) { location.reload(); return; }
      if (!response.ok) throw new Error(`status ${response.status}`);
      this.show(await response.json());
    } catch (error) {
      this.foot.textContent = `The console cannot be read: ${error.message}`;
    }
  }

  show({ end, lines }) {
    // At first the text of the server is there, shown from its beginning.
    const atEnd = this.rows.size === 0 || this.screen.scrollHeight - this.screen.scrollTop - this.screen.clientHeight < 40;
    if (this.rows.size === 0) this.screen.replaceChildren();
    for (const line of lines) this.draw(line);
    this.end = Math.max(this.end, end);
    this.removeOldest();
    const first = Math.min(...this.rows.keys());
    const left = first > 0 && this.rows.size ? `from line ${first + 1} on; download the log to see all of it` : "";
    this.foot.textContent = this.end === 0 ? "Nothing was written yet." : [`${this.end} lines`, left].filter(Boolean).join(", ");
    requestAnimationFrame(() => this.scroll(atEnd));
  }

  draw({ number, text, error }) {
    const known = this.rows.get(number);
    if (known?.text === text) return;
    const element = known?.element ?? this.insert(number);
    element.classList.toggle("console-error", error);
    const terminal = new Terminal(element);
    terminal.write(text);
    terminal.flush();
    this.rows.set(number, { text, element });
  }

  // Lines arrive in order, but for those that a process sends late.
  insert(number) {
    const element = document.createElement("div");
    const later = [...this.rows.keys()].filter((each) => each > number);
    if (later.length) this.rows.get(Math.min(...later)).element.before(element);
    else this.screen.append(element);
    return element;
  }

  removeOldest() {
    const numbers = [...this.rows.keys()].sort((a, b) => a - b);
    for (const number of numbers.slice(0, Math.max(0, numbers.length - MAX_LINES))) {
      this.rows.get(number).element.remove();
      this.rows.delete(number);
    }
  }

  scroll(atEnd) {
    if (this.follows && atEnd) this.screen.scrollTop = this.screen.scrollHeight;
  }
}

const panel = document.querySelector("[data-console]");
if (panel) {
  const shown = new Console(panel);
  shown.update();
  document.addEventListener("launch:updated", () => shown.update());
}
