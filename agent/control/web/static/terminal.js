// Renders a stream of text as a terminal does: colours, carriage returns, cursor moves up and
// down. Only the last lines can still change; older ones are final, and the oldest removed.

const MAX_LINES = 5000;
const CHANGEABLE_LINES = 200;
const MAX_COLUMNS = 4000;
const MAX_SEQUENCE = 4096;
const PLAIN = Object.freeze({ classes: "", foreground: null, background: null });
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "under", 7: "inverse", 9: "strike" };
const FLAGS_OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["under"], 27: ["inverse"], 29: ["strike"] };

export class Terminal {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.lines = [];
    this.row = 0;
    this.column = 0;
    this.attributes = {};
    this.style = PLAIN;
    this.pending = "";
    this.dropped = 0;
    this.dirty = new Set();
    this.scheduled = false;
    this.openLine();
  }

  // Text may end inside an escape sequence; the incomplete part is kept for the next call.
  write(text) {
    const all = this.pending + text;
    this.pending = "";
    let at = 0;
    while (at < all.length) {
      const next = this.step(all, at);
      if (next < 0) {
        this.pending = all.slice(at);
        break;
      }
      at = next;
    }
    this.schedule();
  }

  step(all, at) {
    const code = all.charCodeAt(at);
    if (code === 0x1b) return this.escape(all, at);
    if (code === 0x0a) { this.lineFeed(); this.column = 0; return at + 1; }
    if (code === 0x0d) { this.column = 0; return at + 1; }
    if (code === 0x08) { this.column = Math.max(0, this.column - 1); return at + 1; }
    if (code === 0x09) { this.tab(); return at + 1; }
    if (code < 0x20 || code === 0x7f) return at + 1;
    return this.print(all, at);
  }

  print(all, at) {
    const character = String.fromCodePoint(all.codePointAt(at));
    const line = this.lines[this.row];
    if (this.column >= MAX_COLUMNS) {
      line.cut = true;
      const end = all.slice(at).search(/[\x00-\x1f]/);
      this.dirty.add(line);
      return end < 0 ? all.length : at + end;
    }
    while (line.text.length < this.column) { line.text.push(" "); line.styles.push(PLAIN); }
    line.text[this.column] = character;
    line.styles[this.column] = this.style;
    this.column += 1;
    this.dirty.add(line);
    return at + character.length;
  }

  tab() {
    this.column = Math.min(MAX_COLUMNS, (Math.floor(this.column / 8) + 1) * 8);
  }

  lineFeed() {
    this.row += 1;
    if (this.row === this.lines.length) this.openLine();
  }

  openLine() {
    const element = document.createElement("div");
    element.className = "line";
    const line = { text: [], styles: [], cut: false, element };
    this.lines.push(line);
    this.dirty.add(line);
    if (this.lines.length > CHANGEABLE_LINES) this.finishOldest();
  }

  finishOldest() {
    const oldest = this.lines.shift();
    this.row = Math.max(0, this.row - 1);
    this.draw(oldest);
    this.dirty.delete(oldest);
    oldest.text = oldest.styles = null;
    if (this.element.childElementCount > MAX_LINES) {
      this.element.firstElementChild.remove();
      this.dropped += 1;
    }
  }

  // ---- escape sequences; each returns the index after it, or -1 when more text is needed

  escape(all, at) {
    const kind = all[at + 1];
    if (kind === undefined) return -1;
    if (kind === "[") return this.control(all, at);
    if ("]PX^_".includes(kind)) return this.skipString(all, at);
    if (kind === "M") { this.row = Math.max(0, this.row - 1); return at + 2; }
    if ("()#%* ".includes(kind)) return all.length > at + 2 ? at + 3 : -1;
    return at + 2;
  }

  control(all, at) {
    const match = /^\x1b\[([0-9;:<=>?]*)[ -/]*([@-~])/.exec(all.slice(at, at + 128));
    if (match) {
      this.perform(match[2], match[1]);
      return at + match[0].length;
    }
    const broken = /^\x1b\[[0-9;:<=>? -/]*[^0-9;:<=>? -/]/.test(all.slice(at, at + 128));
    return broken || all.length - at > 128 ? at + 2 : -1;
  }

  skipString(all, at) {
    const rest = all.slice(at + 2, at + 2 + MAX_SEQUENCE);
    const end = /\x07|\x1b\\|\x9c/.exec(rest);
    if (end) return at + 2 + end.index + end[0].length;
    return rest.length === MAX_SEQUENCE ? at + 2 : -1;
  }

  perform(action, parameters) {
    const count = Math.max(1, Number.parseInt(parameters, 10) || 1);
    switch (action) {
      case "m": this.paint(parameters); break;
      case "A": this.row = Math.max(0, this.row - count); break;
      case "F": this.row = Math.max(0, this.row - count); this.column = 0; break;
      case "B": this.down(count); break;
      case "E": this.down(count); this.column = 0; break;
      case "C": this.column = Math.min(MAX_COLUMNS, this.column + count); break;
      case "D": this.column = Math.max(0, this.column - count); break;
      case "G": this.column = Math.min(MAX_COLUMNS, count - 1); break;
      case "K": this.eraseInLine(Number.parseInt(parameters, 10) || 0); break;
      case "J": this.eraseBelow(parameters); break;
      default: break;
    }
  }

  down(count) {
    this.row = Math.min(this.lines.length - 1, this.row + count);
  }

  eraseInLine(mode) {
    const line = this.lines[this.row];
    if (mode === 0) {
      line.text.length = Math.min(line.text.length, this.column);
      line.styles.length = line.text.length;
    } else if (mode === 1) {
      const end = Math.min(this.column + 1, line.text.length);
      line.text.fill(" ", 0, end);
      line.styles.fill(PLAIN, 0, end);
    } else {
      line.text.length = line.styles.length = 0;
    }
    this.dirty.add(line);
  }

  eraseBelow(parameters) {
    if (parameters !== "" && parameters !== "0") return;
    this.eraseInLine(0);
    for (const line of this.lines.slice(this.row + 1)) {
      line.text.length = line.styles.length = 0;
      this.dirty.add(line);
    }
  }

  // ---- colours

  paint(parameters) {
    if (/^[<=>?]/.test(parameters)) return;
    const codes = parameters.split(";").flatMap(numbers);
    for (let i = 0; i < codes.length; i += 1) {
      const which = { 38: "foreground", 48: "background" }[codes[i]];
      if (which) i = extended(this.attributes, which, codes, i);
      else simple(this.attributes, codes[i]);
    }
    this.style = styleOf(this.attributes);
  }

  // ---- drawing, at most once per frame

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.flush();
    });
  }

  flush() {
    const element = this.element;
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    for (const line of this.dirty) this.draw(line);
    this.dirty.clear();
    if (atEnd && element.dataset.follow !== "no") element.scrollTop = element.scrollHeight;
  }

  draw(line) {
    if (!line.element.isConnected) this.element.append(line.element);
    const spans = [];
    let start = 0;
    for (let i = 1; i <= line.text.length; i += 1) {
      if (i < line.text.length && line.styles[i] === line.styles[start]) continue;
      spans.push(span(line.text.slice(start, i).join(""), line.styles[start]));
      start = i;
    }
    if (line.cut) spans.push(span(" … (line cut; download the log to see all of it)", { ...PLAIN, classes: "remark" }));
    line.element.replaceChildren(...spans);
  }
}

// One parameter; with colons it carries its own sub-parameters: `38:2::R:G:B`, `4:3`.
function numbers(part) {
  const parts = part.split(":").map((text) => Number.parseInt(text, 10) || 0);
  if (parts.length === 1) return parts;
  if (parts[0] === 4) return [parts[1] === 0 ? 24 : 4];
  if (parts[1] === 2 && parts.length > 5) parts.splice(2, 1);
  return parts.slice(0, parts[1] === 2 ? 5 : 3);
}

function simple(attributes, code) {
  if (code === 0) for (const key of Object.keys(attributes)) delete attributes[key];
  else if (FLAGS[code]) attributes[FLAGS[code]] = true;
  else if (FLAGS_OFF[code]) for (const flag of FLAGS_OFF[code]) delete attributes[flag];
  else if (code >= 30 && code <= 37) attributes.foreground = code - 30;
  else if (code >= 90 && code <= 97) attributes.foreground = code - 82;
  else if (code >= 40 && code <= 47) attributes.background = code - 40;
  else if (code >= 100 && code <= 107) attributes.background = code - 92;
  else if (code === 39) delete attributes.foreground;
  else if (code === 49) delete attributes.background;
}

// `38;5;N` and `38;2;R;G;B`; returns the index of the last code used.
function extended(attributes, which, codes, i) {
  if (codes[i + 1] === 5) {
    attributes[which] = indexed(codes[i + 2] || 0);
    return i + 2;
  }
  if (codes[i + 1] === 2) {
    attributes[which] = rgb(codes.slice(i + 2, i + 5));
    return i + 4;
  }
  return i + 1;
}

function indexed(number) {
  if (number < 16) return number;
  if (number >= 232) return rgb([8 + 10 * (number - 232), 8 + 10 * (number - 232), 8 + 10 * (number - 232)]);
  const part = (n) => (n === 0 ? 0 : 55 + 40 * n);
  const cube = number - 16;
  return rgb([part(Math.floor(cube / 36)), part(Math.floor(cube / 6) % 6), part(cube % 6)]);
}

function rgb(parts) {
  const [r, g, b] = [0, 1, 2].map((i) => Math.min(255, Math.max(0, parts[i] || 0)));
  return `rgb(${r}, ${g}, ${b})`;
}

function styleOf(attributes) {
  if (Object.keys(attributes).length === 0) return PLAIN;
  let { foreground, background } = attributes;
  const classes = ["bold", "dim", "italic", "under", "strike"].filter((flag) => attributes[flag]).map((flag) => `t-${flag}`);
  if (attributes.inverse) {
    [foreground, background] = [background ?? "default-foreground", foreground ?? "default-background"];
  }
  if (typeof foreground === "number") classes.push(`f${foreground}`);
  if (typeof background === "number") classes.push("on", `b${background}`);
  if (foreground === "default-foreground") classes.push("t-default-foreground");
  if (background === "default-background") classes.push("t-default-background");
  if (isColour(background)) classes.push(isLight(background) ? "on light" : "on");
  return { classes: classes.join(" "), foreground: isColour(foreground) ? foreground : null, background: isColour(background) ? background : null };
}

function isColour(value) {
  return typeof value === "string" && value.startsWith("rgb");
}

function isLight(colour) {
  const [r, g, b] = colour.match(/\d+/g).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 150;
}

function span(text, style) {
  const element = document.createElement("span");
  element.textContent = text;
  if (style.classes) element.className = style.classes;
  if (style.foreground) element.style.color = style.foreground;
  if (style.background) element.style.background = style.background;
  return element;
}
