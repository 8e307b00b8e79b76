// Which experts of which layer are at work, as it happens. Nothing is asked of the server unless the panel is open and seen.

import { experts } from "./api.js";
import { byId, el, mayMove } from "./dom.js";
import { bytes, number, t } from "./i18n.js";

const FADES = 0.8; // of its brightness a field keeps from one event to the next
const DARK = 0.02;
const STEP = 250; // milliseconds between events
const AGAIN = 3000;

let watching = null; // AbortController
let heat = []; // brightness, layer by layer
let counts = [];
let resident = [];
let sums = { hits: 0, reads: 0, bytes: 0 };
let fading;
let tabled = 0;

/** Begins. */
export function start() {
  byId("open-experts").addEventListener("click", () => (isOpen() ? close() : open()));
  byId("close-experts").addEventListener("click", close);
  document.addEventListener("visibilitychange", () => {
    if (!isOpen()) return;
    if (document.hidden) watching?.abort();
    else watch();
  });
  byId("heat").addEventListener("pointermove", tell);
  byId("heat").addEventListener("pointerleave", () => (byId("heat-at").textContent = ""));
  byId("heat-table").addEventListener("toggle", fillTable);
  new ResizeObserver(() => isOpen() && paint()).observe(byId("heat-frame"));
}

export const isOpen = () => !byId("experts").hidden;

function open() {
  byId("experts").hidden = false;
  byId("open-experts").setAttribute("aria-expanded", "true");
  document.body.classList.add("with-experts");
  sums = { hits: 0, reads: 0, bytes: 0 };
  counts = [];
  heat = [];
  say("heatIdle");
  fillFigures();
  watch();
  byId("close-experts").focus();
}

/** Closes the panel, and with it the connection. */
export function close() {
  if (!isOpen()) return false;
  byId("experts").hidden = true;
  byId("open-experts").setAttribute("aria-expanded", "false");
  document.body.classList.remove("with-experts");
  watching?.abort();
  byId("open-experts").focus();
  return true;
}

/** Colours or words have changed. */
export function refresh() {
  if (!isOpen()) return;
  fillFigures();
  fillTable();
  paint();
}

async function watch() {
  watching?.abort();
  const controller = (watching = new AbortController());
  try {
    for await (const event of experts(controller.signal)) take(event);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status >= 400) {
      byId("heat-news").textContent = error.message;
      return;
    }
  }
  if (controller.signal.aborted) return;
  say("heatEnded");
  setTimeout(() => isOpen() && watching === controller && watch(), AGAIN);
}

function say(key) {
  byId("heat-news").textContent = key ? t(key) : "";
}

function take({ layers, resident: held, hits, reads, bytes: amount }) {
  // Layers without experts are left out; the others keep their numbers.
  const isUsed = layers.map((layer) => layer.length > 0);
  const of = (list) => list.map((layer, number) => ({ number, layer })).filter(({ number }) => isUsed[number]);
  resident = of(held);
  const fresh = of(layers);
  if (heat.length !== fresh.length) {
    heat = fresh.map(({ layer }) => layer.map(() => 0));
    counts = fresh.map(({ layer }) => layer.map(() => 0));
  }
  fresh.forEach(({ layer }, at) => {
    const most = Math.max(...layer);
    layer.forEach((count, expert) => {
      counts[at][expert] += count;
      heat[at][expert] = Math.max(heat[at][expert] * FADES, most ? count / most : 0);
    });
  });
  sums = { hits: sums.hits + hits, reads: sums.reads + reads, bytes: sums.bytes + amount };
  if (hits + reads > 0) say(null);
  else if (!sums.hits && !sums.reads) say("heatIdle");
  fillFigures();
  if (performance.now() - tabled > 1000) fillTable();
  paint();
  clearInterval(fading);
  // Where nothing is computed nothing comes: what was bright goes out by itself.
  if (mayMove()) fading = setInterval(fade, STEP);
}

function fade() {
  let isLit = false;
  heat = heat.map((layer) => layer.map((value) => ((isLit ||= value * FADES > DARK), value * FADES > DARK ? value * FADES : 0)));
  paint();
  if (!isLit) clearInterval(fading);
}

function fillFigures() {
  const wanted = sums.hits + sums.reads;
  const share = wanted ? ` (${number((100 * sums.hits) / wanted, 1)} %)` : "";
  const figures = [["heatHits", number(sums.hits) + share], ["heatReads", number(sums.reads)], ["heatBytes", bytes(sums.bytes)]];
  byId("heat-figures").replaceChildren(...figures.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", {}, value)]));
}

/** Fields as large as the panel lets them be: columns are layers. */
function shape() {
  const [columns, rows] = [heat.length, Math.max(0, ...heat.map((layer) => layer.length))];
  const width = byId("heat-frame").clientWidth;
  const column = Math.max(3, Math.min(56, Math.floor(width / Math.max(1, columns))));
  const row = Math.max(3, Math.min(26, Math.floor(420 / Math.max(1, rows))));
  return { columns, rows, column, row };
}

function paint() {
  const canvas = byId("heat");
  const { columns, rows, column, row } = shape();
  const scale = devicePixelRatio;
  const [width, height] = [columns * column, rows * row];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const { color, backgroundColor, borderTopColor, outlineColor } = getComputedStyle(byId("heat-colours"));
  const gap = Math.min(column, row) > 8 ? 2 : Math.min(column, row) > 4 ? 1 : 0;
  heat.forEach((layer, x) =>
    layer.forEach((value, y) => {
      const isHeld = resident[x]?.layer[y];
      const place = [x * column + gap / 2, y * row + gap / 2, column - gap, row - gap];
      pen.globalAlpha = 1;
      pen.fillStyle = isHeld ? backgroundColor : borderTopColor;
      pen.fillRect(...place);
      pen.globalAlpha = Math.sqrt(value);
      pen.fillStyle = color;
      pen.fillRect(...place);
      if (isHeld && gap) {
        pen.globalAlpha = 1;
        pen.strokeStyle = outlineColor;
        pen.strokeRect(place[0] + 0.5, place[1] + 0.5, place[2] - 1, place[3] - 1);
      }
    }),
  );
}

function tell(event) {
  const { column, row } = shape();
  const [x, y] = [Math.floor(event.offsetX / column), Math.floor(event.offsetY / row)];
  const count = counts[x]?.[y];
  if (count === undefined) return;
  const text = t("heatAt", { layer: resident[x].number, expert: y, count: number(count) });
  byId("heat-at").textContent = resident[x].layer[y] ? `${text}, ${t("held")}` : text;
}

function fillTable() {
  tabled = performance.now();
  if (!byId("heat-table").open) return;
  const rows = counts.map((layer, x) => {
    const best = layer.map((count, expert) => ({ count, expert })).sort((one, other) => other.count - one.count);
    const words = best.slice(0, 3).filter(({ count }) => count).map(({ count, expert }) => `${expert} (${number(count)})`);
    const held = resident[x].layer.filter(Boolean).length;
    return el("tr", {}, el("th", { scope: "row" }, String(resident[x].number)), el("td", {}, words.join(", ") || "–"), el("td", {}, `${held} / ${layer.length}`));
  });
  byId("heat-rows").replaceChildren(...rows);
}
