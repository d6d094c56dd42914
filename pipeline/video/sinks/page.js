"use strict";

const RETRY_MS = 2000;
const SILENT_MS = 5000; // without a word from the server the connection counts as lost
const PICTURES_MS = 5000; // that pictures may take to begin
const STATES = { connecting: "connecting", waiting: "waiting", running: "running", ended: "ended", failed: "failed", lost: "not connected" };
const byId = (id) => document.getElementById(id);

let source = null; // of the figures
let visit = ""; // number of this connection: by it the server says whether its pictures still come
let watchdog = 0;
let retry = 0;
let last = "connecting"; // state that the server sent
let asked = 0; // for pictures, when
let rows = []; // of the classes, the rest at the end

function element(tag, name, parent) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  return parent.appendChild(made);
}

function show(state, { text = STATES[state], connected = true } = {}) {
  byId("state").dataset.state = state;
  put("state-text", text);
  document.body.classList.toggle("lost", !connected);
}

function row(name, colour) {
  const item = element("li", "", byId("classes"));
  element("i", "", item).style.backgroundColor = colour;
  const label = element("span", "name", item);
  label.textContent = label.title = name;
  const share = element("span", "share", item);
  const bar = element("span", "", element("span", "bar", item));
  bar.style.backgroundColor = colour;
  return { item, share, bar };
}

function onAbout(about) {
  byId("title").textContent = about.title;
  byId("facts").dataset.engine = about.engine;
  document.title = `${about.title} - segpress`;
  byId("overview").hidden = !about.overview; // it is one of several sources
  put("note", `Up to ${about.rate} pictures a second are shown; the figures count every frame.`);
  byId("classes").replaceChildren();
  rows = about.classes.map((entry) => row(entry.name, entry.colour));
  const rest = row(about.rest, "transparent");
  rest.item.classList.add("rest");
  rest.bar.style.backgroundColor = "#98a0ab";
  rows.push(rest);
  byId("stream").src = `stream?${visit}`;
  asked = performance.now();
}

function onFigures(figures) {
  last = figures.state;
  const quiet = figures.state === "running" && figures.quiet_s >= 2;
  if (quiet) show("waiting", { text: `no frame for ${Math.floor(figures.quiet_s)} s` });
  else show(figures.state);
  const facts = [byId("facts").dataset.engine];
  if (figures.frames) {
    const [height, width] = figures.size;
    facts.push(`${width} \u00d7 ${height}`);
    byId("picture").style.aspectRatio = `${width} / ${height}`;
    put("fps", fixed(figures.fps, figures.fps < 100 ? 1 : 0));
    put("infer", fixed(figures.infer_ms, figures.infer_ms < 10 ? 2 : 1));
    put("age", fixed(figures.age_ms, figures.age_ms < 100 ? 1 : 0));
    put("dropped", figures.dropped.toLocaleString("en"));
    put("frames", figures.frames.toLocaleString("en"));
    put("time", clock(figures.time_s));
    [...figures.shares, figures.other].forEach((share, index) => {
      const { item, share: text, bar } = rows[index];
      text.textContent = share ? `${(100 * share).toFixed(1)} %` : "\u2013";
      const sure = share && figures.confidence ? figures.confidence[index] : null; // the rest has none
      if (typeof sure === "number") text.textContent += ` \u00b7 ${Math.round(100 * sure)} %`;
      bar.style.transform = `scaleX(${share})`;
      item.classList.toggle("absent", !share);
    });
    rows[rows.length - 1].item.hidden = !figures.other;
    put("columns", figures.confidence ? "share \u00b7 confidence" : "share of the pixels");
  }
  byId("facts").textContent = facts.filter(Boolean).join(" \u00b7 ") || "\u00a0";
}

function put(id, text) {
  byId(id).textContent = text;
}

function fixed(number, digits) {
  return number === null ? "\u2013" : number.toFixed(digits);
}

function clock(seconds) {
  if (seconds === null) return "\u2013";
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (parts[0] ? parts : parts.slice(1)).map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}

function connect() {
  clearTimeout(retry);
  visit = crypto.getRandomValues(new Uint32Array(2)).join("-");
  source = new EventSource(`events?${visit}`);
  source.addEventListener("about", (event) => onAbout(JSON.parse(event.data)));
  source.addEventListener("figures", (event) => {
    const figures = JSON.parse(event.data);
    alive();
    onFigures(figures);
    // the server lets go of those that take pictures too slowly, and browsers do not tell when an image of many parts ends
    if (!figures.pictures && performance.now() - asked > PICTURES_MS) lost();
  });
  source.onerror = lost;
  alive();
}

function alive() {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, SILENT_MS);
}

function disconnect() {
  clearTimeout(watchdog);
  clearTimeout(retry);
  if (source) source.close();
  source = null;
}

function lost() {
  disconnect();
  if (last === "ended" || last === "failed") show(last, { text: `${STATES[last]}, program closed`, connected: false });
  else show("lost", { connected: false });
  retry = setTimeout(connect, RETRY_MS);
}

byId("stream").addEventListener("load", () => document.body.classList.add("seen"));
document.addEventListener("visibilitychange", () => {
  // a page that nobody sees costs the device nothing
  if (document.hidden) {
    disconnect();
    byId("stream").removeAttribute("src");
  } else if (!source) {
    connect();
  }
});
show("connecting", { connected: false });
connect();
