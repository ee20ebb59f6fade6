"""The page on which `bulkhead.auditor.page` draws its map: HTML, style and script in one text."""

from typing import Final

TEMPLATE: Final = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --fg: #1d2733; --dim: #5d6b7a; --bg: #ffffff; --panel: #f4f6f8; --line: #d5dbe1;
  --bad: #c62828; --good: #2e7d32; --open: #b26a00; --free: #e6eaee; --xen: #55606b; }
@media (prefers-color-scheme: dark) { :root { --fg: #e4e9ee; --dim: #9aa7b4; --bg: #14181d; --panel: #1d232a;
  --line: #333c46; --bad: #ef6c62; --good: #7bc47f; --open: #e0a94a; --free: #262d35; --xen: #8b98a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 20px; color: var(--fg); background: var(--bg);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 2px; } h2 { font-size: 15px; margin: 26px 0 6px; }
.dim { color: var(--dim); } td.n { white-space: nowrap; }
td.n, #tip { font-family: ui-monospace, monospace; font-size: 12.5px; }
.badge { display: inline-block; padding: 1px 10px; border-radius: 10px; color: #fff; font-weight: 600; }
.isolated { background: #2e7d32; } .violation { background: #c62828; } .not { background: #9a5b00; }
#legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 8px; }
#legend button { all: unset; cursor: pointer; display: flex; align-items: center; gap: 6px; }
#legend button:focus-visible { outline: 2px solid var(--fg); outline-offset: 2px; }
#legend button.off { opacity: .35; }
.swatch { width: 13px; height: 13px; border-radius: 3px; border: 1px solid #0003; }
.mark { background: repeating-linear-gradient(45deg, #000 0 2px, #fff 2px 4px); }
#map { position: relative; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
canvas { display: block; width: 100%; height: 576px; cursor: crosshair; touch-action: none; }
#bar { display: flex; gap: 8px; align-items: center; margin: 8px 0; flex-wrap: wrap; }
#bar button { font: inherit; padding: 2px 10px; border: 1px solid var(--line); border-radius: 5px; color: inherit;
  background: var(--panel); cursor: pointer; }
#tip { position: fixed; pointer-events: none; display: none; max-width: 460px; padding: 8px 10px; border-radius: 6px;
  background: var(--panel); border: 1px solid var(--line); box-shadow: 0 4px 16px #0004; white-space: pre-wrap;
  z-index: 2; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--dim); font-weight: 500; }
th, td { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr.go { cursor: pointer; } tr.go:hover { background: var(--panel); }
.scroll { max-height: 340px; overflow: auto; }
</style>
</head>
<body>
<h1>Machine memory <span id="verdict" class="badge"></span></h1>
<div class="dim" id="about"></div>
<div id="legend"></div>
<div id="map"><canvas id="c" tabindex="0" aria-label="map of machine memory"></canvas></div>
<div id="bar"><button id="all">whole memory</button><button id="in">zoom in</button><button id="out">zoom out</button>
<span class="dim" id="range"></span>
<span class="dim">wheel: zoom &middot; drag: move &middot; point: who reaches it</span></div>
<div id="tip"></div>
<h2>Findings</h2><div class="scroll" id="findings"></div>
<h2>Shared or borrowed</h2><div class="scroll" id="shared"></div>
<h2>Reached outside RAM</h2><div class="scroll" id="outside"></div>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const D = JSON.parse(document.getElementById("data").textContent), PAGE = 4096, ROWS = 32, LEFT = 104;
const $ = id => document.getElementById(id), hex = n => "0x" + Math.floor(n).toString(16);
const COLOURS = ["#3b7dd8", "#e08a1e", "#2f9e6e", "#c2528b", "#7d5fd0", "#a3a82d", "#1fa3b5", "#b8603a", "#5a8f29",
  "#d0679d", "#4f6fae", "#93713d"];
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const GREY = { "Xen": "--xen", "free": "--free", "not known": "--line", "reached by no VM": "--free" };
let next = 0;
const colour = D.owners.map(name => GREY[name] ? null : COLOURS[next++ % COLOURS.length]);
const paint = owner => colour[owner] || css(GREY[D.owners[owner]]);
const size = n => { for (const [u, s] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"]])
  if (n >= u) return +(n / u).toFixed(2) + " " + s; return +(n / 1024).toFixed(2) + " KiB"; };
// RAM is drawn without its holes: positions in the map run from 0 to TOTAL
let TOTAL = 0;
for (const bank of D.banks) { bank.at = TOTAL; TOTAL += bank.size; }
const toMap = address => { for (const b of D.banks)
  if (address >= b.base && address < b.base + b.size) return b.at + address - b.base; return null; };
const toAddress = at => { for (const b of D.banks) if (at < b.at + b.size) return b.base + at - b.at; return null; };
const bankOf = at => D.banks.find(b => at < b.at + b.size);
const runAt = (bank, frame) => { let low = 0, high = bank.runs.length - 1;
  while (low < high) { const mid = (low + high + 1) >> 1;
    if (bank.runs[mid][0] <= frame) low = mid; else high = mid - 1; }
  return low; };
const marks = [];
for (const [list, bad] of [[D.shared, false], [D.findings, true]]) for (const each of list)
  if (each.at !== null && toMap(each.at) !== null) marks.push({ at: toMap(each.at), size: each.size, each,
    bad: bad ? each.severity === "violation" : each.justified === false });
let from = 0, to = TOTAL, only = null;
const canvas = $("c"), context = canvas.getContext("2d");
function draw() {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio; context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = css("--bg"); context.fillRect(0, 0, width, height);
  const tall = height / ROWS, perRow = (to - from) / ROWS, perPixel = perRow / (width - LEFT);
  context.fillStyle = css("--dim"); context.font = "11px ui-monospace, monospace"; context.textBaseline = "middle";
  for (let row = 0; row < ROWS; row++)
    context.fillText(hex(toAddress(Math.floor(from + row * perRow))), 8, (row + .5) * tall);
  const box = (a, b, fill) => { a = Math.max(a, from); b = Math.min(b, to); if (a >= b) return;
    for (let row = Math.floor((a - from) / perRow); row < ROWS; row++) {
      const start = from + row * perRow, end = start + perRow; if (start >= b) break;
      fill(LEFT + (Math.max(a, start) - start) / perPixel, row * tall + 1,
        (Math.min(b, end) - Math.max(a, start)) / perPixel, tall - 2); } };
  for (const bank of D.banks) {
    if (bank.at >= to || bank.at + bank.size <= from) continue;
    const first = runAt(bank, (bank.base + Math.max(0, from - bank.at)) / PAGE), low = bank.base / PAGE;
    for (let i = first; i < bank.runs.length; i++) {
      const [frame, owner, kind] = bank.runs[i], at = bank.at + (frame - low) * PAGE;
      if (at > to) break;
      const end = i + 1 < bank.runs.length ? bank.at + (bank.runs[i + 1][0] - low) * PAGE : bank.at + bank.size;
      context.fillStyle = paint(owner);
      context.globalAlpha = only !== null && only !== owner ? .12 : kind || GREY[D.owners[owner]] ? 1 : .55;
      box(at, end, (x, y, w, h) => context.fillRect(x, y, Math.max(w, .35), h)); } }
  context.globalAlpha = 1;
  for (const mark of marks) box(mark.at, mark.at + mark.size, (x, y, w, h) => {
    const wide = Math.max(w, 5); x = w < 5 ? x - (5 - w) / 2 : x; context.save(); context.beginPath();
    context.rect(x, y, wide, h); context.clip(); context.strokeStyle = mark.bad ? css("--bad") : css("--fg");
    context.lineWidth = 1.2; context.beginPath();
    for (let s = -h; s < wide; s += 5) { context.moveTo(x + s, y + h); context.lineTo(x + s + h, y); }
    context.stroke(); context.restore(); context.strokeStyle = mark.bad ? css("--bad") : css("--fg");
    context.lineWidth = mark.bad ? 2.4 : 1.2; context.strokeRect(x, y, wide, h); });
  $("range").textContent = hex(toAddress(from)) + " \u2013 " + hex(toAddress(to - 1)) + ", " + size(to - from);
}
function view(start, span) {
  span = Math.min(TOTAL, Math.ceil(span / ROWS / PAGE) * ROWS * PAGE);
  from = Math.max(0, Math.min(TOTAL - span, Math.floor(start / PAGE) * PAGE)); to = from + span; draw(); }
function zoom(factor, centre) {
  const span = Math.min(TOTAL, Math.max(ROWS * PAGE, (to - from) * factor)), part = (centre - from) / (to - from);
  view(centre - part * span, span); }
function go(at, bytes) {
  const place = toMap(at); if (place === null) return;
  const span = Math.min(TOTAL, Math.max(bytes * 4, ROWS * PAGE * 16));
  view(place + bytes / 2 - span / 2, span); $("map").scrollIntoView({ block: "nearest" }); }
const pointed = event => { const box = canvas.getBoundingClientRect(), perRow = (to - from) / ROWS;
  const row = Math.max(0, Math.min(ROWS - 1, Math.floor((event.clientY - box.top) / (box.height / ROWS))));
  const part = Math.max(0, Math.min(.9999, (event.clientX - box.left - LEFT) / (box.width - LEFT)));
  return Math.min(TOTAL - 1, from + (row + part) * perRow); };
function about(at) {
  const bank = bankOf(at), address = toAddress(at), frame = Math.floor(address / PAGE), i = runAt(bank, frame);
  const [first, owner, kind] = bank.runs[i];
  const end = i + 1 < bank.runs.length ? bank.runs[i + 1][0] : (bank.base + bank.size) / PAGE;
  const lines = [hex(frame * PAGE), (D.records ? "owner: " : "") + D.owners[owner],
    "range: " + hex(first * PAGE) + " \u2013 " + hex(end * PAGE - 1) + ", " + size((end - first) * PAGE)];
  const near = (to - from) / ROWS / (canvas.clientWidth - LEFT) * 3;
  const hit = marks.filter(m => m.at - near <= at && at < m.at + m.size + near);
  const exact = hit.filter(m => m.at <= at && at < m.at + m.size);
  if (kind && !exact.length) { const k = D.kinds[kind];
    lines.push(D.vms[k.vm].name + ": " + k.access + ", " + k.type + ", " + k.memory +
      (k.valid === "hardware" ? "" : ", valid for the " + k.valid + " only")); }
  else if (!exact.length) lines.push("no VM reaches it");
  for (const m of hit.slice(0, 6)) lines.push("", hex(m.each.at) + ", " + size(m.size) + ": " +
    (m.each.reason ? m.each.reason + " (" + m.each.why + ")\n  " + m.each.users.join("\n  ")
      : m.each.kind + "\n  " + m.each.text));
  return lines.join("\n"); }
const tip = $("tip");
let grip = null;
canvas.addEventListener("pointermove", event => {
  if (grip !== null) { const box = canvas.getBoundingClientRect(), perRow = (to - from) / ROWS, span = to - from;
    const by = (event.clientX - grip.x) / box.width * perRow + (event.clientY - grip.y) / box.height * span;
    tip.style.display = "none"; view(grip.from - by, span); return; }
  tip.textContent = about(pointed(event)); tip.style.display = "block";
  const w = tip.offsetWidth, h = tip.offsetHeight;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - w - 8) + "px";
  tip.style.top = (event.clientY + 18 + h > innerHeight ? event.clientY - h - 10 : event.clientY + 18) + "px"; });
canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
canvas.addEventListener("pointerdown", event => { grip = { x: event.clientX, y: event.clientY, from };
  canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointerup", () => { grip = null; });
canvas.addEventListener("wheel", event => { event.preventDefault();
  zoom(event.deltaY < 0 ? .7 : 1 / .7, pointed(event)); }, { passive: false });
canvas.addEventListener("keydown", event => { const span = to - from, step = span / ROWS;
  const move = { ArrowDown: step, ArrowUp: -step, ArrowRight: step / 8, ArrowLeft: -step / 8 }[event.key];
  if (move) view(from + move, span);
  else if (event.key === "+") zoom(.7, (from + to) / 2); else if (event.key === "-") zoom(1 / .7, (from + to) / 2);
  else return; event.preventDefault(); });
$("all").onclick = () => { from = 0; to = TOTAL; draw(); };
$("in").onclick = () => zoom(.5, (from + to) / 2); $("out").onclick = () => zoom(2, (from + to) / 2);
function table(where, titles, rows, none) {
  if (!rows.length) { $(where).textContent = none; return; }
  const made = document.createElement("table"), head = made.insertRow();
  for (const title of titles) head.appendChild(document.createElement("th")).textContent = title;
  for (const { cells, at, bytes } of rows) { const row = made.insertRow();
    cells.forEach((cell, i) => { const td = row.insertCell(); td.textContent = cell; if (i < 2) td.className = "n"; });
    if (at === undefined || at === null || toMap(at) === null) continue;
    row.className = "go"; row.onclick = () => go(at, bytes); }
  $(where).appendChild(made); }
const badge = $("verdict"); badge.textContent = D.verdict; badge.classList.add(D.verdict.split(" ")[0]);
$("about").textContent = D.file + " \u00b7 " + D.ram + " RAM \u00b7 " + D.vms.map(v => v.name).join(", ") +
  (D.step > 1 ? " \u00b7 drawn from every " + D.step + "th frame" : "") +
  (D.records ? " \u00b7 coloured by owner, from Xen's records; paler where no VM reaches it"
    : " \u00b7 coloured by who has it as its own memory") + " \u00b7 Bulkhead " + D.version;
const totals = D.owners.map(() => 0);
for (const bank of D.banks) bank.runs.forEach((run, i) => { totals[run[1]] += ((i + 1 < bank.runs.length ?
  bank.runs[i + 1][0] : (bank.base + bank.size) / PAGE) - run[0]) * PAGE; });
D.owners.forEach((name, owner) => { if (!totals[owner]) return;
  const item = document.createElement("button"), box = document.createElement("span"); box.className = "swatch";
  box.style.background = colour[owner] || "var(" + GREY[name] + ")";
  item.append(box, name + ", " + size(totals[owner]));
  item.onclick = () => { only = only === owner ? null : owner; [...$("legend").children].forEach(each =>
    each.classList.toggle("off", only !== null && each !== item && each.tagName === "BUTTON")); draw(); };
  $("legend").append(item); });
const key = document.createElement("span"), hatch = document.createElement("span"); hatch.className = "swatch mark";
key.style.cssText = "display:flex;align-items:center;gap:6px";
key.append(hatch, "shared or borrowed (red: not as it should be)");
$("legend").append(key);
table("findings", ["machine", "size", "kind", ""], [...D.findings.map(f => ({ at: f.at, bytes: f.size, cells:
  [f.at === null ? "" : hex(f.at), f.at === null ? "" : size(f.size), f.severity + ": " + f.kind, f.text] })),
  ...D.unchecked.map(text => ({ cells: ["", "", "not checked", text] }))], "none");
table("shared", ["machine", "size", "reason", "as it should be", "VMs", "why"], D.shared.map(s => ({ at: s.at,
  bytes: s.size, cells: [hex(s.at), size(s.size), s.reason, s.justified === null ? "not checked" :
    s.justified ? "yes" : "NO", s.users.join(", "), s.why] })), "nothing");
table("outside", ["machine", "size", "VM", "access", "type"], D.outside.map(o => { const k = D.kinds[o.kind];
  return { cells: [hex(o.at), size(o.size), D.vms[k.vm].name, k.access, k.type] }; }), "nothing");
addEventListener("resize", draw); matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
</script>
</body>
</html>
"""
