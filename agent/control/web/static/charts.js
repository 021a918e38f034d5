// Charts of metrics, drawn by uPlot. Each is fetched when it comes into view, and again when the
// page is told that its runs have logged more.

/* global uPlot */

const AT_ONCE = 24;
const PER_REQUEST = 12;
const HEIGHT = 220;
const COLOURS = ["#3b82f6", "#e0692c", "#1a9a55", "#a855f7", "#d1242f", "#0f8f9f", "#b07d00", "#d6409f", "#6e7781", "#4f46e5"];

class Charts {
  constructor(panel) {
    this.panel = panel;
    this.list = panel.querySelector("[data-chart-list]");
    this.options = panel.querySelector("[data-chart-options]");
    this.none = panel.querySelector("[data-charts-none]");
    this.more = panel.querySelector("[data-charts-more]");
    this.figures = new Map();
    this.wanted = new Set();
    this.limit = AT_ONCE;
    this.options.hidden = false;
    this.options.addEventListener("submit", (event) => event.preventDefault());
    this.options.addEventListener("input", (event) => this.choose(event.target.name));
    this.more.addEventListener("click", () => { this.limit += AT_ONCE; this.update(); });
    this.observer = new IntersectionObserver((entries) => this.see(entries), { rootMargin: "200px" });
    this.sizes = new ResizeObserver((entries) => {
      for (const { target } of entries) this.figures.get(target.dataset.metric)?.resize();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
  }

  setting(name) {
    const field = this.options.elements[name];
    return field?.type === "checkbox" ? field.checked : field?.value;
  }

  choose(name) {
    if (name === "find") { this.update(); return; }
    this.options.elements.smoothed.value = this.setting("smoothing");
    this.drawAll();
  }

  drawAll() {
    for (const figure of this.figures.values()) figure.draw();
  }

  // The server's markup names runs and metrics; it is replaced while runs log.
  update() {
    const source = document.getElementById("chart-metrics").dataset;
    const key = source.runs + source.version;
    const changed = this.key !== undefined && this.key !== key;
    this.key = key;
    this.runs = JSON.parse(source.runs);
    this.labels = JSON.parse(source.labels);
    const find = this.setting("find").toLowerCase();
    const all = JSON.parse(source.metrics);
    const found = all.filter((metric) => metric.toLowerCase().includes(find));
    const shown = found.slice(0, this.limit);
    this.arrange(shown);
    this.none.hidden = all.length > 0 && this.runs.length > 0;
    this.more.hidden = found.length <= this.limit;
    if (changed) {
      for (const figure of this.figures.values()) figure.stale = true;
      this.fetchSoon([...this.figures.values()].filter((figure) => figure.visible));
    }
  }

  arrange(metrics) {
    for (const [metric, figure] of this.figures) {
      if (!metrics.includes(metric)) { figure.remove(); this.figures.delete(metric); }
    }
    metrics.forEach((metric, index) => {
      let figure = this.figures.get(metric);
      if (!figure) {
        figure = new Figure(this, metric);
        this.figures.set(metric, figure);
        this.observer.observe(figure.element);
        this.sizes.observe(figure.element);
      }
      if (this.list.children[index] !== figure.element) this.list.insertBefore(figure.element, this.list.children[index] ?? null);
    });
  }

  see(entries) {
    const due = [];
    for (const entry of entries) {
      const figure = this.figures.get(entry.target.dataset.metric);
      if (!figure) continue;
      figure.visible = entry.isIntersecting;
      if (figure.visible && figure.stale) due.push(figure);
    }
    this.fetchSoon(due);
  }

  fetchSoon(figures) {
    for (const figure of figures) this.wanted.add(figure);
    if (!this.fetching && this.wanted.size) this.fetchAll();
  }

  async fetchAll() {
    this.fetching = true;
    while (this.wanted.size) {
      const batch = [...this.wanted].slice(0, PER_REQUEST);
      for (const figure of batch) { this.wanted.delete(figure); figure.stale = false; }
      await this.fetch(batch);
    }
    this.fetching = false;
  }

  async fetch(figures) {
    const address = new URL(this.panel.dataset.url, location.href);
    address.searchParams.set("stream", this.panel.dataset.stream);
    for (const run of this.runs) address.searchParams.append("run", run);
    for (const figure of figures) address.searchParams.append("key", figure.metric);
    try {
      const response = await fetch(address);
      if (response.redirected || response.status === 401) { location.reload(); return; }
      if (!response.ok) throw new Error(`status ${response.status}`);
      const found = await response.json();
      for (const figure of figures) figure.show(found, this.runs, this.labels);
    } catch (error) {
      for (const figure of figures) figure.fail(error);
    }
  }
}

class Figure {
  constructor(charts, metric) {
    this.charts = charts;
    this.metric = metric;
    this.stale = true;
    this.visible = false;
    this.lines = [];
    this.element = document.createElement("figure");
    this.element.className = "panel chart";
    this.element.dataset.metric = metric;
    const caption = document.createElement("figcaption");
    caption.textContent = metric;
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.last = document.createElement("p");
    this.last.className = "quiet small chart-last";
    this.last.textContent = "Loading…";
    this.element.append(caption, this.plot, this.last);
  }

  remove() {
    this.charts.observer.unobserve(this.element);
    this.charts.sizes.unobserve(this.element);
    this.charts.wanted.delete(this);
    this.drawn?.destroy();
    this.element.remove();
  }

  fail(error) {
    this.stale = true;
    this.last.textContent = `The values cannot be read: ${error.message}`;
  }

  show(found, runs, labels) {
    this.lines = runs
      .map((run, index) => ({ label: labels[index], colour: COLOURS[index % COLOURS.length], ...found[run]?.[this.metric] }))
      .filter((line) => line.values?.length);
    this.draw();
  }

  draw() {
    this.last.textContent = this.lines.length ? this.lines.map(lastValue).join(" · ") : "No values.";
    this.drawn?.destroy();
    this.drawn = null;
    if (!this.lines.length) return;
    const axis = this.charts.setting("axis") ?? "seconds";
    const smoothing = Number(this.charts.setting("smoothing"));
    const logarithmic = this.charts.setting("logarithmic");
    const tables = this.lines.map((line) => table(line, axis, smoothing, logarithmic));
    const data = tables.length === 1 ? tables[0] : uPlot.join(tables);
    this.drawn = new uPlot(this.settings(axis, logarithmic), data, this.plot);
  }

  settings(axis, logarithmic) {
    const style = getComputedStyle(document.body);
    const ink = style.getPropertyValue("--quiet");
    const line = style.getPropertyValue("--line");
    const frame = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const inTime = axis === "seconds";
    const names = new Set(this.lines.map((each) => (axis === "axis" && each.axisName) || "Step"));
    const title = inTime ? "Time" : [...names].join(", ");
    return {
      width: this.plot.clientWidth || 300,
      height: HEIGHT,
      scales: { x: { time: false }, y: logarithmic ? { distr: 3 } : {} },
      axes: [
        { ...frame, values: (_, values) => values.map((value) => (inTime ? duration(value) : plain(value))) },
        { ...frame, size: 62, values: (_, values) => values.map((value) => (value === null ? "" : plain(value))) },
      ],
      series: [
        { label: title, value: (_, value) => (value === null ? "" : inTime ? duration(value) : plain(value)) },
        ...this.lines.map((each) => ({
          label: each.label,
          stroke: each.colour,
          width: 1.5,
          points: { show: each.values.length < 2 ? true : undefined },
          value: (_, value) => (value === null || value === undefined ? "" : plain(value)),
        })),
      ],
      cursor: { y: false, drag: { x: true, y: false } },
      legend: { live: true },
    };
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.drawn && width && width !== this.drawn.width) this.drawn.setSize({ width, height: HEIGHT });
  }
}

// Positions and values, sorted by position; a null is a gap.
function table(line, axis, smoothing, logarithmic) {
  const positions = line[axis]?.some((each) => each !== null) ? line[axis] : line.steps;
  const pairs = positions
    .map((position, index) => [position, line.values[index]])
    .filter(([position]) => position !== null)
    .sort((a, b) => a[0] - b[0]);
  const values = smooth(pairs.map((pair) => pair[1]), smoothing);
  return [
    pairs.map((pair) => pair[0]),
    logarithmic ? values.map((value) => (value > 0 ? value : null)) : values,
  ];
}

// An exponential moving average, corrected for its start at 0.
function smooth(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

function lastValue(line) {
  const at = line.values.findLastIndex((value) => value !== null);
  const text = at < 0 ? "no number" : plain(line.values[at]);
  return `${line.label}: ${text}`;
}

function plain(value) {
  return Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-4)
    ? value.toExponential(3).replace(/\.?0+e/, "e")
    : String(Number(value.toPrecision(6)));
}

function duration(seconds) {
  if (seconds < 60) return `${plain(seconds)} s`;
  if (seconds < 3600) return `${plain(Number((seconds / 60).toFixed(1)))} min`;
  return `${plain(Number((seconds / 3600).toFixed(2)))} h`;
}

const panel = document.querySelector("[data-charts]");
if (panel) {
  const charts = new Charts(panel);
  charts.update();
  document.addEventListener("launch:updated", () => charts.update());
}
