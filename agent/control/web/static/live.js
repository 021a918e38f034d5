// Keeps a page up to date: the server says that something changed, and the page asks for its
// own regions again. Also keeps relative times relative. Without this script, reload.

const QUIET_MS = 400;
const REFUSED_MS = 5000;
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

// The page's clock may be wrong; the server's time at rendering corrects it.
const skew = Date.parse(document.body.dataset.now || "") - Date.now() || 0;

function clock(moment, now) {
  const today = moment.toDateString() === now.toDateString();
  return today ? moment.toLocaleTimeString() : moment.toLocaleString();
}

function tellTimes() {
  const now = new Date(Date.now() + skew);
  for (const element of document.querySelectorAll("time[data-style]")) {
    const moment = new Date(element.dateTime);
    const seconds = (now - moment) / 1000;
    const texts = { ago: () => ago(seconds), since: () => span(seconds), clock: () => clock(moment, now) };
    const text = texts[element.dataset.style]();
    if (element.textContent !== text) element.textContent = text;
  }
}

class Page {
  constructor(address) {
    this.address = address;
    this.source = null;
    this.busy = false;
    this.wanted = false;
    this.mark = document.querySelector("[data-live-mark]");
    // A browser has few connections to one server: hidden pages give theirs back. What they
    // miss they catch up with, since every connection begins with a notice.
    document.addEventListener("visibilitychange", () => this.look());
    addEventListener("pagehide", () => this.leave());
    addEventListener("pageshow", () => this.look());
    this.look();
  }

  look() {
    if (document.hidden) this.leave();
    else if (!this.source) this.connect();
  }

  leave() {
    this.source?.close();
    this.source = null;
  }

  connect() {
    const source = new EventSource(this.address);
    this.source = source;
    source.addEventListener("changed", () => this.refresh());
    source.addEventListener("open", () => this.tell("tone-good", "Live"));
    source.addEventListener("error", () => {
      this.tell("tone-warn", "Reconnecting…");
      if (source.readyState === EventSource.CLOSED && this.source === source) this.refused();
    });
  }

  // The browser gives up when it is answered and refused: signed out, or a proxy without a server.
  refused() {
    this.leave();
    this.refresh();
    setTimeout(() => this.look(), REFUSED_MS);
  }

  tell(tone, text) {
    if (!this.mark) return;
    this.mark.className = `live state ${tone}`;
    this.mark.textContent = text;
    this.mark.hidden = false;
  }

  async refresh() {
    this.wanted = true;
    if (this.busy) return;
    this.busy = true;
    while (this.wanted) {
      this.wanted = false;
      await this.fetchRegions();
      await new Promise((resolve) => { setTimeout(resolve, QUIET_MS); });
    }
    this.busy = false;
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
      // The event source says when the server is back.
    }
  }
}

const shown = new WeakMap();

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const region of fresh.querySelectorAll("[data-region]")) {
    const old = document.getElementById(region.id);
    if (!old) continue;
    // The texts of times change by themselves and are filled in below.
    for (const time of region.querySelectorAll("time[data-style]")) time.textContent = "";
    const markup = region.innerHTML;
    if (shown.get(old) !== markup) replace(old, region);
    shown.set(old, markup);
  }
  tellTimes();
  document.dispatchEvent(new CustomEvent("launch:updated"));
}

// Open details stay open, and the focus stays where it was.
function replace(old, region) {
  const open = [...old.querySelectorAll("details[open][id]")].map((element) => element.id);
  const focused = old.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  old.replaceChildren(...document.adoptNode(region).childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) [...old.querySelectorAll("a, button, summary")].find((e) => keyOf(e) === focused)?.focus();
}

function keyOf(element) {
  return element.id || element.getAttribute("href") || element.textContent;
}

tellTimes();
setInterval(tellTimes, 1000);

const address = document.body.dataset.events;
if (address) new Page(address);

for (const select of document.querySelectorAll("select[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
  select.form.querySelector("button")?.setAttribute("hidden", "");
}
for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}
