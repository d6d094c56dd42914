const PICTURES_MS = 5000; // that pictures may take to begin

let visit = ""; // number of this connection; the server reports whether it still sends pictures to it
let asked = 0; // time of the request for pictures
let rows = []; // of the classes, the rest at the end

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

function onAbout(text) {
  const about = JSON.parse(text);
  byId("title").textContent = about.title;
  byId("facts").dataset.engine = about.engine;
  document.title = `${about.title} - segpress`;
  byId("overview").hidden = !about.overview; // it is one of several sources
  put("note", `Up to ${about.rate} pictures per second are shown; the figures count every frame.`);
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
  const quiet = figures.state === "running" && figures.quiet_s >= 2;
  if (quiet) show("waiting", `no frame for ${Math.floor(figures.quiet_s)} s`);
  else show(figures.state, figures.state);
  ended = figures.state === "ended" || figures.state === "failed" ? figures.state : "";
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
  // the server drops viewers that take pictures too slowly, and browsers do not report that an image of many parts has ended
  if (!figures.pictures && performance.now() - asked > PICTURES_MS) lost();
}

function put(id, text) {
  byId(id).textContent = text;
}

function clock(seconds) {
  if (seconds === null) return "\u2013";
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (parts[0] ? parts : parts.slice(1)).map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}

function connect() {
  visit = crypto.getRandomValues(new Uint32Array(2)).join("-");
  listen(`events?${visit}`, onAbout, onFigures);
}

byId("stream").addEventListener("load", () => document.body.classList.add("seen"));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) byId("stream").removeAttribute("src");
});
show("connecting", "connecting", false);
connect();
