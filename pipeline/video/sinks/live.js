"use strict";

// Both pages begin with this file: the server puts it before page.js and tiles.js, which define connect().

const RETRY_MS = 2000;
const SILENT_MS = 5000; // without data from the server the connection counts as lost
const byId = (id) => document.getElementById(id);

let source = null; // of the figures
let watchdog = 0;
let retry = 0;
let ended = ""; // text of the state after the last frame

function element(tag, name, parent, text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return parent.appendChild(node);
}

function show(state, text, connected = true) {
  byId("state").dataset.state = state;
  byId("state-text").textContent = text;
  document.body.classList.toggle("lost", !connected);
}

function fixed(value, digits) {
  return value === null ? "\u2013" : value.toFixed(digits);
}

function listen(address, onAbout, onFigures) {
  clearTimeout(retry);
  source = new EventSource(address);
  source.addEventListener("about", (event) => onAbout(event.data));
  source.addEventListener("figures", (event) => {
    alive();
    onFigures(JSON.parse(event.data));
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
  if (ended) show(byId("state").dataset.state, `${ended}, program closed`, false);
  else show("lost", "not connected", false);
  retry = setTimeout(connect, RETRY_MS);
}

document.addEventListener("visibilitychange", () => {
  // a page that nobody sees costs the device nothing
  if (document.hidden) disconnect();
  else if (!source) connect();
});
