const PICTURE_MS = 5000; // that one picture may take
const PAUSE_MS = 1000; // after a picture that could not be loaded
const TOGETHER = 4; // pictures that load at a time: browsers allow six connections to a host, and one has the figures
const TILE_MS = 100; // between two pictures of one tile, at least
const EACH_MS = 25; // between two pictures of all tiles, on average: it limits the work of the device
const LIVE_FPS = 4; // from here on a new frame is there before the next figures are
const STATES = { waiting: "waiting", running: "running", ended: "ended", failed: "failed" };

let loading = 0; // pictures
let connection = 0; // its number; pictures that an earlier one asked for are not shown
let tiles = [];
let known = ""; // the newest event "about"

function number(parent, name, unit, hint) {
  const item = element("span", "", parent);
  item.title = hint;
  item.append(name ? `${name} ` : "");
  const value = element("b", name.toLowerCase() || unit, item, "\u2013");
  if (unit) item.append(` ${unit}`);
  return value;
}

function makeTile(about, index) {
  const root = element("article", "tile", byId("grid"));
  const view = element("div", "view", root);
  const empty = element("p", "", view, "Waiting for the first frame");
  const canvas = element("canvas", "", view);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The newest frame of ${about.name}, tinted with the colours of its classes`);
  const text = element("div", "text", root);
  const top = element("div", "top", text);
  const link = element("a", "", element("h2", "", top), about.name);
  link.href = `${index + 1}/`;
  link.title = about.title;
  const state = element("span", "state", top, "waiting");
  if (about.title !== about.name) element("p", "source", text, about.title).title = about.title;
  const numbers = element("div", "numbers", text);
  return {
    root, view, empty, canvas, state, about, path: `${index + 1}/picture`,
    fps: number(numbers, "", "fps", "frames segmented per second, over the last 2 s"),
    age: number(numbers, "Age", "ms", "from reading a frame until it is drawn, median of the last 2 s"),
    dropped: number(numbers, "Dropped", "", "frames of a live source that were skipped, to show the newest frame"),
    largest: element("ol", "largest", text),
    busy: false, visible: true, after: 0, asked: -Infinity, pause: 0, rate: 0, frames: 0, shown: 0, last: "", lastShown: "",
  };
}

const onScreen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const tile = tiles.find((one) => one.root === entry.target);
    if (tile) tile.visible = entry.isIntersecting;
  }
});

function onAbout(text) {
  for (const tile of tiles) Object.assign(tile, { after: 0, shown: 0, pause: 0 }); // the program may be another one now
  if (text === known) return; // what is seen stays
  known = text;
  const about = JSON.parse(text);
  const before = tiles;
  tiles = about.sources.map((one, index) => {
    const there = before[index];
    return there && JSON.stringify(there.about) === JSON.stringify(one) ? there : makeTile(one, index);
  });
  onScreen.disconnect();
  byId("grid").replaceChildren(...tiles.map((tile) => tile.root));
  byId("legend").replaceChildren();
  tiles.forEach((tile) => onScreen.observe(tile.root));
  byId("title").textContent = `${tiles.length} ${tiles.length === 1 ? "source" : "sources"}`;
  document.title = `${byId("title").textContent} - segpress`;
  byId("facts").textContent = [...new Set(about.sources.map((one) => one.engine).filter(Boolean))].join(" \u00b7 ") || "\u00a0";
  const seen = new Set();
  for (const { name, colour } of about.sources.flatMap((one) => one.classes)) {
    const key = JSON.stringify([name, colour]);
    if (!seen.has(key)) swatch(byId("legend"), name, colour);
    seen.add(key);
  }
}

function swatch(parent, name, colour) {
  const item = element("li", "", parent);
  element("i", "", item).style.backgroundColor = colour;
  const label = element("span", "name", item, name);
  label.title = name;
  return item;
}

function onFigures(all) {
  const counts = {};
  all.sources.forEach((figures, index) => {
    onTile(tiles[index], figures);
    counts[figures.state] = (counts[figures.state] || 0) + 1;
  });
  const kinds = Object.keys(STATES).filter((state) => counts[state]);
  const worst = counts.failed ? "failed" : counts.waiting ? "waiting" : counts.running ? "running" : "ended";
  const text = summary(kinds, counts);
  ended = kinds.every((state) => state === "ended" || state === "failed") ? text : "";
  show(worst, text);
}

function summary(kinds, counts) {
  return kinds.length === 1 ? STATES[kinds[0]] : kinds.map((state) => `${counts[state]} ${STATES[state]}`).join(", ");
}

function onTile(tile, figures) {
  const quiet = figures.state === "running" && figures.quiet_s >= 2;
  tile.state.dataset.state = quiet ? "waiting" : figures.state;
  tile.state.textContent = quiet ? `no frame for ${Math.floor(figures.quiet_s)} s` : STATES[figures.state];
  tile.root.classList.toggle("failed", figures.state === "failed");
  tile.last = figures.state;
  tile.frames = figures.frames;
  if (!figures.frames) {
    tile.empty.textContent = figures.state === "waiting" ? "Waiting for the first frame" : "No frames";
    return;
  }
  tile.rate = figures.fps;
  tile.fps.textContent = fixed(figures.fps, figures.fps < 100 ? 1 : 0);
  tile.age.textContent = fixed(figures.age_ms, figures.age_ms < 100 ? 1 : 0);
  tile.dropped.textContent = figures.dropped.toLocaleString("en");
  tile.largest.replaceChildren();
  for (const [index, share] of figures.largest) {
    const { name, colour } = tile.about.classes[index];
    element("span", "share", swatch(tile.largest, name, colour), `${(100 * share).toFixed(1)} %`);
  }
}

// pictures

function due(tile, now) {
  if (tile.busy || !tile.visible || !tile.frames || now < tile.pause) return false;
  const running = tile.last === "running";
  if (tile.frames === tile.shown && tile.last === tile.lastShown && !(running && tile.rate >= LIVE_FPS)) return false;
  const pace = Math.max(TILE_MS, EACH_MS * tiles.length, running && tile.rate >= LIVE_FPS ? 1000 / tile.rate : 0);
  return now - tile.asked >= pace;
}

function ask() {
  if (!source) return;
  const now = performance.now();
  const waiting = tiles.filter((tile) => due(tile, now)).sort((one, other) => one.asked - other.asked);
  for (const tile of waiting.slice(0, Math.max(0, TOGETHER - loading))) load(tile, now);
}

async function load(tile, now) {
  const mine = connection;
  tile.busy = true;
  tile.asked = now;
  const { frames, last } = tile;
  loading += 1;
  try {
    const answer = await fetch(`${tile.path}?after=${tile.after}`, { cache: "no-store", signal: AbortSignal.timeout(PICTURE_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    if (answer.status === 200) {
      const bitmap = await createImageBitmap(await answer.blob());
      if (mine === connection) {
        tile.after = Number(answer.headers.get("X-Picture-Number"));
        draw(tile, bitmap);
      }
      bitmap.close();
    }
    tile.shown = frames;
    tile.lastShown = last;
  } catch {
    tile.pause = performance.now() + PAUSE_MS; // the server is busy or gone
  } finally {
    tile.busy = false;
    loading -= 1;
  }
}

function draw(tile, bitmap) {
  const { canvas } = tile;
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  tile.root.classList.add("seen");
}

function connect() {
  connection += 1;
  listen("events", onAbout, onFigures);
}

show("connecting", "connecting", false);
connect();
setInterval(ask, 25);
