// Keeps a page up to date: the server sends an event when something changed, and the page
// fetches its regions again. Also updates relative times. Without this script, reload.

const PAUSE_MS = 400;
const RETRY_MS = 5000;
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

function ago(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < MINUTE) return `${Math.floor(seconds)} s ago`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
  const days = Math.floor(seconds / DAY);
  return days === 1 ? "1 day ago" : `${days} days ago`;
}

function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return `${Math.floor(whole / MINUTE)} min ${whole % MINUTE} s`;
  return `${Math.floor(whole / HOUR)} h ${Math.floor((whole % HOUR) / MINUTE)} min`;
}

// The browser's clock may be wrong; the server's time at rendering corrects it.
const skew = Date.parse(document.body.dataset.now || "") - Date.now() || 0;

function clock(time, now) {
  const today = time.toDateString() === now.toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

function updateTimes() {
  const now = new Date(Date.now() + skew);
  for (const element of document.querySelectorAll("time[data-style]")) {
    const time = new Date(element.dateTime);
    const seconds = (now - time) / 1000;
    const texts = { ago: () => ago(seconds), since: () => span(seconds), clock: () => clock(time, now) };
    const text = texts[element.dataset.style]();
    if (element.textContent !== text) element.textContent = text;
  }
}

class LivePage {
  constructor(address) {
    this.address = address;
    this.source = null;
    this.fetching = false;
    this.changed = false;
    this.status = document.querySelector("[data-live-status]");
    // A browser opens few connections to one server, so hidden pages close theirs. They miss
    // nothing, since every connection begins with an event.
    document.addEventListener("visibilitychange", () => this.update());
    addEventListener("pagehide", () => this.disconnect());
    addEventListener("pageshow", () => this.update());
    document.addEventListener("launch:refresh", () => this.refresh());
    this.update();
  }

  update() {
    if (document.hidden) this.disconnect();
    else if (!this.source) this.connect();
  }

  disconnect() {
    this.source?.close();
    this.source = null;
  }

  connect() {
    const source = new EventSource(this.address);
    this.source = source;
    source.addEventListener("changed", () => this.refresh());
    source.addEventListener("open", () => this.showStatus("tone-good", "Live"));
    source.addEventListener("error", () => {
      this.showStatus("tone-warn", "Reconnecting…");
      if (source.readyState === EventSource.CLOSED && this.source === source) this.retryLater();
    });
  }

  // The browser does not reconnect after an error response: signed out, or a proxy's error page.
  retryLater() {
    this.disconnect();
    this.refresh();
    setTimeout(() => this.update(), RETRY_MS);
  }

  showStatus(tone, text) {
    if (!this.status) return;
    this.status.className = `live state ${tone}`;
    this.status.textContent = text;
    this.status.hidden = false;
  }

  async refresh() {
    this.changed = true;
    if (this.fetching) return;
    this.fetching = true;
    while (this.changed) {
      this.changed = false;
      await this.fetchRegions();
      await new Promise((resolve) => { setTimeout(resolve, PAUSE_MS); });
    }
    this.fetching = false;
  }

  async fetchRegions() {
    const address = new URL(location.href);
    address.hash = "";
    address.searchParams.set("fragment", "1");
    try {
      const response = await fetch(address, { headers: { Accept: "text/html" } });
      if (response.redirected || response.status === 401) { location.reload(); return; }
      if (response.ok) swap(await response.text());
    } catch {
      // The event source reconnects when the server is back.
    }
  }
}

const shown = new WeakMap();

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const region of fresh.querySelectorAll("[data-region]")) {
    const old = document.getElementById(region.id);
    if (!old) continue;
    // Texts of times differ in every response; they are filled in below.
    for (const time of region.querySelectorAll("time[data-style]")) time.textContent = "";
    const markup = region.innerHTML;
    if (shown.get(old) !== markup) replace(old, region);
    shown.set(old, markup);
  }
  updateTimes();
  document.dispatchEvent(new CustomEvent("launch:updated"));
}

// Open details stay open, and the focus stays on the same element.
function replace(old, region) {
  const open = [...old.querySelectorAll("details[open][id]")].map((element) => element.id);
  const focused = old.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  old.replaceChildren(...document.adoptNode(region).childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) [...old.querySelectorAll("a, button, summary, input")].find((e) => keyOf(e) === focused)?.focus();
}

function keyOf(element) {
  return element.id || element.getAttribute("href") || element.value || element.textContent;
}

updateTimes();
setInterval(updateTimes, 1000);

const address = document.body.dataset.events;
if (address) new LivePage(address);

for (const select of document.querySelectorAll("select[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
  select.form.querySelector("button:not([data-keep])")?.setAttribute("hidden", "");
}
// On the document, since forms in regions are replaced.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
