"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const D = JSON.parse($("data").textContent), E = D.edges, B = D.boxes, N = E.name.length;
const root = document.documentElement, pic = $("picture"), pane = $("scroll");
const view = pic.viewBox.baseVal, {abs, max, min, round} = Math;
const make = (tag, given = {}, ...inside) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key === "click") made.addEventListener("click", value);
    else if (value !== null) made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
};
const hear = (id, kind, act, more) => $(id).addEventListener(kind, act, more);
const put = (part, given) => {
  for (const [key, value] of Object.entries(given)) part.setAttribute(key, value);
  return part;
};
const drawn = (tag, given, text = "") => {
  const made = put(document.createElementNS("http://www.w3.org/2000/svg", tag), given);
  made.textContent = text;
  return made;
};

// -- the circuit
const lines = new Array(N), boxes = [...pic.querySelectorAll(".n")];
for (const line of pic.querySelectorAll(".e")) lines[+line.dataset.i] = line;
const places = () => boxes.map(({lastChild}) => ({x: +lastChild.getAttribute("x"), y: +lastChild.getAttribute("y") - 4}));

// The first edges are laid out on their own too, and move when further ones join them.
let alone = true;
const move = () => {
  const few = !D.whole || S.by === "weight" && S.n <= D.start;
  if (few === alone) return;
  const now = room();
  alone = few;
  curves.clear();
  const own = D.whole;
  D.whole = {size: [view.width, view.height], boxes: [], paths: []};
  const swap = (part, key, now) => {
    const before = part.getAttribute(key);
    part.setAttribute(key, now);
    return before;
  };
  own.boxes.forEach((here, i) => D.whole.boxes.push(here &&
    ["x", "y", "width", "x", "y"].map((key, k) => swap(boxes[i].children[+(k > 2)], key, here[k]))));
  own.paths.forEach((here, i) => D.whole.paths.push(here.map((d, k) => swap(lines[i].children[k], "d", d))));
  [view.width, view.height] = own.size;
  pic.classList.toggle("whole", !few);
  return now;
};
const out = B.map(() => []), into = B.map(() => []);
for (let i = 0; i < N; i++) {
  out[E.from[i]].push(i);
  for (const end of E.to[i]) into[end].push(i);
}
const chips = (kind) => document.querySelectorAll(`[data-${kind}]`);
const ends = (i) => ["input", "logits"].includes(B[i].kind);
boxes.forEach((box, i) => box.ariaLabel =
  B[i].name + (B[i].role ? `, ${B[i].role}` : "") + (B[i].at ? `, at ${B[i].at}` : ""));

// -- what is asked for
const S = {n: D.start, by: "weight", node: -1, edge: -1, role: "", q: "", hide: [], table: false,
  theme: ""};
const known = D.measures.filter((m) => m.known);
const value = (i) => S.by === "frequency" ? E.frequency[i]
  : S.by === "exact" && E.exact[i] !== true ? null : E.weight ? E.weight[i] : 1;
const strength = (i) => abs(value(i) || 0);
const orders = {};
const order = () => orders[S.by] ||= (() => {
  const all = [...Array(N).keys()];
  if (S.by === "weight") return all;
  const size = all.map(strength);
  return all.filter((i) => value(i) !== null).sort((a, b) => size[b] - size[a] || a - b);
})();
const sizes = () => S.by === "weight" ? D.sizes.filter((own) => !own.other) : [];
const stops = () => {
  const most = order().length, found = new Set([most]);
  if (!E.weight) return [...new Set([D.start, most])].sort((a, b) => a - b);
  for (let n = 1; n < most; n = max(n + 1, round(n * 1.06))) found.add(n);
  for (const own of sizes()) if (own.n <= most) found.add(own.n);
  return [...found].sort((a, b) => a - b);
};
let steps = stops();
const step = (n) => min(steps.findLastIndex((own) => own < n), steps.length - 2) + 1;

// -- numbers in words
const number = (x, sign) => {
  if (x == null) return "";
  const small = abs(x) < 1e-3 && x !== 0 || abs(x) >= 1e5;
  const text = small ? x.toExponential(1) : String(+x.toPrecision(3));
  return (sign && x > 0 ? "+" : "") + text.replace(/-/g, "−");
};
const percent = (x) => x == null ? "" : `${round(100 * x)}%`;
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const span = (i) => E.low?.[i] != null ? `[${number(E.low[i])}, ${number(E.high[i])}]` : "";
const has = (key) => E[key] !== undefined;
const COLUMNS = [
  has("weight_a") && ["A", "weight in A", (i) => number(E.weight_a[i], true)],
  has("weight_b") && ["B", "weight in B", (i) => number(E.weight_b[i], true)],
  !has("side") && has("weight") && [D.unit || "weight", "", (i) => number(E.weight[i], true)],
  has("taken") && ["weight", "", (i) => number(E.taken[i], true)],
  has("low") && ["interval", "", span],
  has("share") && !has("side") && ["share", "of the reader's input", (i) => percent(E.share[i])],
  has("frequency") && ["in", "in circuits of other samples", (i) => percent(E.frequency[i]) + (E.core?.[i] ? " core" : "")],
  has("q") && ["q", "q, false discovery rate", (i) => number(E.q[i])],
  has("exact") && ["exact", "measured exactly", (i) => ({true: "yes", false: "no"}[E.exact[i]] || "")],
  has("side") && ["where", "", (i) => D.sides[E.side[i]].name],
].filter(Boolean);

// -- filtering
const groups = [...$("edges").children].reverse(), each = groups[0]?.children.length;
const some = new Uint8Array(groups.length).fill(2), kept = new Uint8Array(N).fill(2), seen = new Uint8Array(B.length).fill(2);
let on;
const faded = new Uint8Array(N), pale = new Uint8Array(B.length);
let visible = [], lit = null, litBoxes = null;
const flip = (part, name, was, i, is) => {
  if (was[i] !== is) part.classList.toggle(name, name === "off" ? !is : is);
  was[i] = is;
};

const filter = () => {
  const touched = new Uint8Array(B.length);
  on = new Uint8Array(N);
  visible = order().slice(0, S.n).filter((i) => !has("side") || !S.hide.includes(E.side[i]));
  for (const i of visible) {
    on[i] = touched[E.from[i]] = 1;
    for (const end of E.to[i]) touched[end] = 1;
  }
  groups.forEach((group, k) => {
    const start = k * each, own = on.subarray(start, start + each);
    flip(group, "off", some, k, +own.includes(1));
    if (some[k]) own.forEach((is, i) => flip(lines[start + i], "off", kept, start + i, is));
  });
  boxes.forEach((box, i) => flip(box, "off", seen, i, touched[i] || +ends(i)));
};

// What leads to the boxes, and what leads on from them.
const walk = (starts, next, other, found, reached) => {
  const open = [...starts];
  while (open.length) for (const i of next[open.pop()]) if (on[i]) {
    found[i] = 1;
    for (const box of other(i)) if (!reached[box]) {
      reached[box] = 1;
      open.push(box);
    }
  }
};
const isolate = () => {
  lit = litBoxes = null;
  let up = [], down = [];
  if (S.node >= 0) up = down = [S.node];
  else if (S.edge >= 0 && on[S.edge]) [down, up] = [[E.from[S.edge]], E.to[S.edge]];
  else if (S.role) up = down = B.flatMap((box, i) => box.role === S.role && seen[i] ? [i] : []);
  if (up.length || S.role) {
    lit = new Uint8Array(N);
    litBoxes = new Uint8Array(B.length);
    for (const box of [...up, ...down]) litBoxes[box] = 1;
    if (S.edge >= 0 && S.node < 0) lit[S.edge] = 1;
    walk(down, into, (i) => [E.from[i]], lit, litBoxes);
    walk(up, out, (i) => E.to[i], lit, litBoxes);
  }
  lines.forEach((line, i) => flip(line, "dim", faded, i, +(lit && on[i] && !lit[i])));
  boxes.forEach((box, i) => {
    flip(box, "dim", pale, i, +(litBoxes && !litBoxes[i]));
    if (i === S.node || box.ariaPressed === "true") box.ariaPressed = i === S.node;
  });
};
const strengths = () => {
  let most = 0;
  for (let i = 0; i < N; i++) most = max(most, strength(i));
  for (let i = 0; i < N; i++) {
    const share = E.weight ? strength(i) / (most || 1) : .1;
    put(lines[i], {"stroke-width": (.8 + 3.4 * Math.sqrt(share)).toFixed(2)});
  }
};

// -- what is said of the size
const say = () => {
  const all = order(), rule = known.find((m) => m.key === S.by);
  const least = rule && S.n < all.length
    ? ` · ${rule.name} ≥ ${number(all.slice(0, S.n).reduce((x, i) => min(x, strength(i)), Infinity))}` : "";
  $("count").textContent = $("size").ariaValueText =
    `${count(visible.length, "edge")} of ${(rule && rule.known < N ? rule.known : D.of).toLocaleString("en")}${least}`;
  const own = sizes(), here = own.find((s) => s.n === S.n);
  const near = [own.findLast((s) => s.n < S.n), own.find((s) => s.n > S.n)].filter(Boolean).map((s) => `${number(s.value)} with ${s.n}`);
  $("faithful").textContent = D.said ?? (here
    ? `Faithfulness ${number(here.value)}${here.low === undefined ? "" : ` [${number(here.low)}, ${number(here.high)}]`}, measured with these ${count(here.n, "edge")}`
    : `Faithfulness with ${count(visible.length, "edge")}: not measured${near.length ? `; it is ${near.join(", ")}` : ""}`);
  drawCurve();
};
const drawCurve = () => {
  const place = $("curve"), own = sizes(), others = D.sizes.filter((s) => s.other && S.by === "weight");
  if (place.hidden = own.length + others.length < 2) return place.replaceChildren();
  const wide = 300, tall = 40, all = [...own, ...others].map((s) => s.value);
  const low = min(0, ...all), high = max(1, ...all);
  const x = (n) => 8 + (wide - 16) * (steps.length > 1 ? step(n) / (steps.length - 1) : 1);
  const y = (f) => 4 + (tall - 8) * (high - f) / (high - low);
  const chart = drawn("svg", {viewBox: `0 0 ${wide} ${tall}`, role: "img", preserveAspectRatio: "none",
    "aria-label": `Faithfulness: ${own.map((s) => `${number(s.value)} with ${s.n} edges`).join(", ")}`});
  for (const f of [0, 1]) chart.append(drawn("path", {class: "rule", d: `M0,${y(f)}H${wide}`}));
  for (const s of others) if (s.n <= N)
    chart.append(drawn("path", {class: "other", d: `M${x(s.n)},${y(s.value)}h0`}));
  chart.append(drawn("path", {class: "way", d: own.map((s, k) => `${k ? "L" : "M"}${x(s.n)},${y(s.value)}`).join("")}));
  for (const s of own) {
    if (s.low !== undefined)
      chart.append(drawn("path", {class: "whisker", d: `M${x(s.n)},${y(s.low)}V${y(s.high)}`}));
    chart.append(drawn("path", {class: "point", d: `M${x(s.n)},${y(s.value)}h0`}));
  }
  chart.append(drawn("path", {class: "now", d: `M${x(S.n)},0V${tall}`}));
  const note = others.length ? "; grey: other sizes of the ranking, on the prompts of the discovery" : "";
  place.replaceChildren(chart, make("small", {}, `faithfulness by size, lines at 0 and 1${note}`));
};

// -- tables
const link = (i, name = B[i].name) => make("button", {class: "link", click: () => choose({node: i})}, name);
const reader = (i) => E.to[i].length === 1 ? link(E.to[i][0], E.name[i].split("->")[1]) : E.name[i].split("->")[1];
const strongest = (list) => list.filter((i) => on[i]).sort((a, b) => strength(b) - strength(a) || a - b);
const grid = (caption, heads, rows, most = 40) => {
  const body = make("tbody");
  const line = ({cells, i}) => {
    const made = make("tr", i === S.edge && i >= 0 ? {class: "chosen"} : {},
      ...cells.map((cell) => make("td", typeof cell === "string" ? {class: "number"} : {}, cell)));
    if (i !== undefined) made.addEventListener("pointerenter", () => glow(i));
    return made;
  };
  body.append(...rows.slice(0, most).map(line));
  const more = rows.length > most && make("button", {click: () => {
    body.append(...rows.slice(most).map(line));
    more.remove();
  }}, `${count(rows.length - most, "more edge")}`);
  return make("div", {class: "rows"}, make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map(([name, title]) => make("th", {scope: "col", title: title || null, class: title === undefined ? null : "number"}, name)))), body), more || "");
};
const table = (caption, list, first, most) => grid(caption, [...first.map((end) => [END[end][0]]), ...COLUMNS],
  list.map((i) => ({i, cells: [...first.map((end) => make("span", {}, END[end][1](i))), ...COLUMNS.map(([, , say]) => say(i))]})), most);
const END = {from: ["from", (i) => link(E.from[i])], to: ["to", reader], port: ["into", (i) => E.port[i]]};
const details = () => {
  const side = $("details");
  if (S.node >= 0) return side.replaceChildren(...ofBox(S.node));
  if (S.edge >= 0) return side.replaceChildren(...ofEdge(S.edge));
  const own = B.flatMap((box, i) => box.role === S.role ? [i] : []);
  if (S.role) return side.replaceChildren(head(S.role, count(own.length, "component")), make("p", {}, ...own.flatMap((i) => [link(i), " "])));
  const carried = (i) => out[i].reduce((sum, e) => sum + (on[e] && E.weight ? abs(E.weight[e]) : 0), 0);
  const first = B.map((_, i) => [i, ends(i) ? 0 : carried(i)]).filter(([, sum]) => sum).sort((a, b) => b[1] - a[1]).slice(0, 12);
  side.replaceChildren(make("p", {class: "hint"}, "Point at a line for its numbers; choose a box for what leads to it and on."),
    first.length ? grid("What carries most", [["component"], ["role"], ["Σ |weight|", "of the edges out of it that are shown"]],
      first.map(([i, sum]) => ({cells: [link(i), make("span", {}, B[i].role || ""), number(sum)]}))) : "");
};
const head = (name, text) => make("div", {class: "head"}, make("h2", {dir: "auto"}, name),
  make("button", {"aria-label": "Show all", click: () => choose({})}, "✕"), make("p", {dir: "auto"}, text));
const ofBox = (box) => {
  const own = B[box], kind = {mlp: /[.]/.test(own.name.split("@")[0]) ? "part of " + own.name.split(".")[0] : "MLP", head: "attention head", group: "heads of one key and value"}[own.kind] || own.kind;
  const said = [own.role, kind, own.layer !== undefined && `layer ${own.layer}`, own.at && `at ${own.at}`,
    lit && `${count(lit.reduce((n, x) => n + x, 0), "edge")} on its paths`].filter(Boolean).join(" · ");
  const [here, on_] = [strongest(into[box]), strongest(out[box])];
  return [head(own.name, said), ...(globalThis.extra?.(make, D, own) || []), here.length ? table(`${count(here.length, "edge")} in`, here, here.some((i) => E.port[i]) ? ["from", "port"] : ["from"]) : "",
    on_.length ? table(`${count(on_.length, "edge")} out`, on_, ["to"]) : ""];
};
const facts = (i) => COLUMNS.map(([name, title, say]) => [title || name, say(i)]).filter(([, text]) => text);
const ofEdge = (i) => [head(E.name[i], on[i] ? "What leads to it and from it is shown." : "Not among the edges that are shown."),
  make("dl", {}, ...facts(i).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])),
  make("p", {}, "from ", link(E.from[i]), " to ", ...E.to[i].flatMap((end) => [link(end), " "]))];
const fullTable = () => {
  const place = $("table");
  place.hidden = !S.table;
  $("stage").hidden = S.table;
  $("as-table").ariaPressed = S.table;
  if (!S.table) return place.replaceChildren();
  const list = visible.filter((i) => (!S.q || matches(i)) && (!lit || lit[i]));
  place.replaceChildren(table(`${count(list.length, "edge")}, in the order of the picture`, list, ["from", "to"], 300));
};

// -- searching
let hits = [];
const query = () => S.q.toLowerCase().trim().replace("→", "->");
const matches = (i) => E.name[i].toLowerCase().includes(query()) || hits.some((box) => E.from[i] === box || E.to[i].includes(box));
const search = () => {
  const q = query();
  hits = q ? B.flatMap((box, i) => `${box.name} ${box.label} ${box.role || ""}`.toLowerCase().includes(q) ? [i] : []) : [];
  const edges = q.includes("->") ? E.name.flatMap((name, i) => name.toLowerCase().includes(q) ? [i] : []) : [];
  boxes.forEach((box, i) => box.classList.toggle("hit", hits.includes(i)));
  const hidden = hits.filter((i) => !seen[i]).length;
  $("hits").textContent = !q ? "" : edges.length ? count(edges.length, "edge") : `${hits.length ? count(hits.length, "component") : "nothing"}${hidden ? `, ${hidden} not shown` : ""}`;
  return edges;
};
const found = () => {
  const edges = search();
  if (edges.length) return choose({edge: edges[(edges.indexOf(S.edge) + 1) % edges.length]});
  const next = hits[(hits.indexOf(S.node) + 1) % hits.length];
  if (next !== undefined) choose({node: next});
};

// -- changing
const choose = ({node = -1, edge = -1, role = ""}) => {
  Object.assign(S, {node, edge, role});
  refresh();
  if (node >= 0) at(node, false);
};
const reveal = (i) => {
  const ranks = [...into[i], ...out[i]].map((e) => order().indexOf(e)).filter((k) => k >= 0);
  if (ranks.length) S.n = max(S.n, 1 + min(...ranks));
};
const refresh = () => {
  if (S.node >= 0 && !ends(S.node)) reveal(S.node);
  S.n = max(1, min(S.n, order().length));
  const moved = move();
  filter();
  isolate();
  search();
  say();
  details();
  fullTable();
  $("size").value = step(S.n);
  $("number").value = S.n;
  for (const chip of chips("role")) chip.ariaPressed = chip.dataset.role === S.role;
  for (const chip of chips("side")) chip.ariaPressed = !S.hide.includes(+chip.dataset.side);
  if (moved) fit(moved);
  remember();
};
const rank = () => {
  steps = stops();
  $("size").max = steps.length - 1;
  $("size").disabled = steps.length < 2;
  $("number").max = order().length;
  strengths();
};
let waiting;
const remember = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const said = new URLSearchParams();
    if (S.n !== D.start) said.set("n", S.n);
    if (S.by !== "weight") said.set("by", S.by);
    if (S.node >= 0) said.set("node", B[S.node].name);
    if (S.edge >= 0) said.set("edge", E.name[S.edge]);
    for (const key of ["role", "q", "theme"]) if (S[key]) said.set(key, S[key]);
    if (S.hide.length) said.set("hide", S.hide.join("."));
    if (S.table) said.set("view", "table");
    try {
      history.replaceState(null, "", `#${said}`);
    } catch { /* a notebook's frame has no address */ }
  }, 120);
};
const recall = () => {
  const said = new URLSearchParams(location.hash.slice(1));
  S.by = known.find((m) => m.key === said.get("by"))?.key || "weight";
  S.n = /^\d+$/.test(said.get("n")) ? +said.get("n") : D.start;
  S.node = B.findIndex((box) => box.name === said.get("node"));
  S.edge = E.name.indexOf(said.get("edge"));
  S.role = B.find((box) => box.role === said.get("role"))?.role || "";
  S.q = said.get("q") || "";
  S.hide = [0, 1, 2].filter((k) => said.get("hide")?.includes(k));
  S.table = said.get("view") === "table";
  S.theme = /^(light|dark)$/.exec(said.get("theme"))?.[0] || "";
  $("search").value = S.q;
  $("measure").value = S.by;
  paint();
  rank();
  refresh();
};
const paint = () => {
  if (S.theme) root.dataset.theme = S.theme;
  else delete root.dataset.theme;
  $("theme").textContent = {light: "☀ light", dark: "☾ dark"}[S.theme] || "◐ auto";
};

// -- pointing
const curves = new Map();
const curve = (i) => {
  if (!curves.has(i)) {
    const points = [];
    for (const part of (lines[i].firstChild || lines[i]).getAttribute("d").split("M").slice(1)) {
      const n = part.split(/[C ,]/).map(Number), dense = n.length > 26 ? 3 : 10;
      for (let k = 0; k + 7 < n.length; k += 6) for (let s = k ? 1 : 0; s <= dense; s++) {
        const t = s / dense, u = 1 - t, [a, b, c, d] = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
        points.push(a * n[k] + b * n[k + 2] + c * n[k + 4] + d * n[k + 6], a * n[k + 1] + b * n[k + 3] + c * n[k + 5] + d * n[k + 7]);
      }
      points.push(NaN, NaN);
    }
    curves.set(i, Float32Array.from(points));
  }
  return curves.get(i);
};
const nearest = (x, y, reach) => {
  let best = -1, least = reach * reach;
  for (const i of visible) {
    if (faded[i]) continue;
    const p = curve(i);
    for (let k = 0; k + 3 < p.length; k += 2) {
      if (min(p[k + 1], p[k + 3]) > y + reach || max(p[k + 1], p[k + 3]) < y - reach) continue;
      const dx = p[k + 2] - p[k], dy = p[k + 3] - p[k + 1];
      const t = max(0, min(1, ((x - p[k]) * dx + (y - p[k + 1]) * dy) / (dx * dx + dy * dy || 1)));
      const far = (x - p[k] - t * dx) ** 2 + (y - p[k + 1] - t * dy) ** 2;
      if (far < least) [least, best] = [far, i];
    }
  }
  return best;
};
let scale = 1, glowing = -1;
const glow = (i) => {
  if (i === glowing) return;
  if (glowing >= 0) lines[glowing].classList.remove("glow");
  if (i >= 0) lines[i].classList.add("glow");
  glowing = i;
};
const under = (event, reach) => {
  const box = event.target.closest?.(".n");
  if (box) return {node: boxes.indexOf(box)};
  const rect = pic.getBoundingClientRect();
  return {edge: nearest(view.x + (event.clientX - rect.left) / scale, view.y + (event.clientY - rect.top) / scale, reach / scale)};
};
const tip = (x, y, title, rows) => {
  const place = $("tip");
  if (place.hidden = !title) return;
  place.replaceChildren(make("b", {dir: "auto"}, title), ...rows.filter(([name, text]) => name || text).map(([name, text]) => make("div", {dir: "auto"}, text ? `${name} ` : name, make("span", {}, text))));
  const {width, height} = place.getBoundingClientRect();
  place.style.left = `${max(4, min(x + 14, innerWidth - width - 4))}px`;
  place.style.top = `${y + height + 24 > innerHeight ? y - height - 10 : y + 16}px`;
};
const told = (box) => [[B[box].role || "", ""], [B[box].at ? "at" : "", B[box].at || ""],
  ["", `${count(strongest(into[box]).length, "edge")} in, ${strongest(out[box]).length} out`]];
let drag, dragged;
hear("scroll", "pointermove", (event) => {
  if (drag) {
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    dragged ||= Math.hypot(dx, dy) > 4;
    if (dragged) pane.scrollTo(drag.left - dx, drag.top - dy);
    return tip();
  }
  if (event.pointerType === "touch") return;
  const {node, edge} = under(event, 7);
  glow(node === undefined ? edge : -1);
  pane.classList.toggle("on-edge", edge >= 0);
  if (node !== undefined) tip(event.clientX, event.clientY, B[node].name, told(node));
  else if (edge >= 0) tip(event.clientX, event.clientY, E.name[edge], facts(edge));
  else tip();
});
hear("scroll", "pointerleave", () => {
  glow(-1);
  tip();
});
hear("scroll", "pointerdown", (event) => {
  dragged = false;
  if (event.pointerType === "mouse" && event.button === 0)
    drag = {x: event.clientX, y: event.clientY, left: pane.scrollLeft, top: pane.scrollTop};
});
addEventListener("pointerup", () => drag = null);
hear("scroll", "click", (event) => {
  if (dragged) return;
  const {node, edge} = under(event, 10);
  if (node !== undefined) choose(node === S.node ? {} : {node});
  else choose(edge >= 0 && edge !== S.edge ? {edge} : {});
});

// -- by keyboard
let cursor = B.findIndex((box) => box.kind === "logits");
const at = (i, focus = true) => {
  boxes[cursor].tabIndex = -1;
  boxes[cursor = i].tabIndex = 0;
  if (focus) boxes[i].focus({preventScroll: true});
  const {x, y} = places()[i], left = (x - view.x) * scale, top = (y - view.y) * scale;
  if (left < pane.scrollLeft + 30 || left > pane.scrollLeft + pane.clientWidth - 30) pane.scrollLeft = left - pane.clientWidth / 2;
  if (top < pane.scrollTop + 30 || top > pane.scrollTop + pane.clientHeight - 30) pane.scrollTop = top - pane.clientHeight / 2;
};
const beside = (dx, dy) => {
  const all = places(), here = all[cursor];
  let best = -1, least = Infinity;
  all.forEach((there, i) => {
    if (!seen[i] || pale[i] && lit || i === cursor) return;
    const [x, y] = [there.x - here.x, there.y - here.y];
    const far = dx ? (abs(y) < 5 && x * dx > 0 ? abs(x) : Infinity) : y * dy > 5 ? abs(y) * 50 + abs(x) : Infinity;
    if (far < least) [least, best] = [far, i];
  });
  if (best >= 0) at(best);
};
const ARROWS = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]};
hear("boxes", "keydown", (event) => {
  if (ARROWS[event.key]) beside(...ARROWS[event.key]);
  else if (event.key === "Enter" || event.key === " ") choose(cursor === S.node ? {} : {node: cursor});
  else return;
  event.preventDefault();
});
hear("boxes", "focusin", (event) => {
  const i = boxes.indexOf(event.target.closest(".n")), {left, bottom} = boxes[i].getBoundingClientRect();
  if (boxes[i].matches(":focus-visible")) tip(left, bottom, B[i].name, told(i));
});
hear("boxes", "focusout", () => tip());
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (document.activeElement === $("search") && S.q) $("search").value = S.q = "";
    tip();
    return choose({});
  }
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const act = {"+": closer, "=": closer, "-": farther, 0: fit, "/": () => $("search").focus(), t: () => $("as-table").click()}[event.key.toLowerCase()];
  if (act) {
    act();
    event.preventDefault();
  }
});

// -- zooming
const room = () => ({wide: pane.clientWidth, tall: pane.clientHeight, left: pane.scrollLeft, top: pane.scrollTop});
const resize = (to, own = room(), x = own.wide / 2, y = own.tall / 2) => {
  const before = scale;
  scale = max(.1, min(6, to));
  put(pic, {width: round(view.width * scale), height: round(view.height * scale)});
  pane.scrollTo((own.left + x) * scale / before - x, (own.top + y) * scale / before - y);
};
const closer = () => resize(scale * 1.25), farther = () => resize(scale / 1.25);
const fit = (own = room()) => resize(min((own.wide - 2) / view.width, max((own.tall - 4) / view.height, .8), 1.5), own);
hear("scroll", "wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const rect = pane.getBoundingClientRect();
  resize(scale * Math.exp(-event.deltaY / 300), room(), event.clientX - rect.left, event.clientY - rect.top);
}, {passive: false});

// -- taking it along
const STYLE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "text-anchor"];
const taken = () => {
  const copy = pic.cloneNode(true), from = [pic, ...pic.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((own, i) => {
    if (own === pic || own.closest(".off")) return;
    const said = getComputedStyle(own);
    for (const key of STYLE) to[i].setAttribute(key, said.getPropertyValue(key));
    for (const key of ["style", "tabindex", "role", "aria-pressed", "data-i", "data-n"]) to[i].removeAttribute(key);
  });
  for (const own of copy.querySelectorAll(alone ? ".off, .many" : ".off, .few")) own.remove();
  const foot = [D.title, $("count").textContent, $("faithful").textContent];
  const ink = getComputedStyle(document.body), high = view.height + 18 * foot.length + 8;
  foot.forEach((line, k) => copy.append(drawn("text", {x: 14, y: view.height + 12 + 18 * k, "font-size": k ? 10 : 12, fill: ink.color}, line)));
  copy.prepend(drawn("title", {}, D.title), drawn("rect", {width: view.width, height: high, fill: ink.backgroundColor}));
  put(copy, {width: view.width, height: high, viewBox: `0 0 ${view.width} ${high}`});
  return [new XMLSerializer().serializeToString(copy), view.width, high];
};
const offer = (blob, suffix) => {
  const address = URL.createObjectURL(blob), name = D.title.replace(/[^\w.-]+/g, "-").slice(0, 60) || "circuit";
  make("a", {href: address, download: `${name}.${suffix}`}).click();
  setTimeout(() => URL.revokeObjectURL(address), 5000);
};
hear("as-svg", "click", () => offer(new Blob([taken()[0]], {type: "image/svg+xml"}), "svg"));
hear("as-png", "click", () => {
  const [text, wide, high] = taken(), image = new Image(), times = min(3, 8000 / high, 8000 / wide);
  image.onload = () => {
    const canvas = make("canvas", {width: round(wide * times), height: round(high * times)});
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => offer(blob, "png"), "image/png");
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
});

// -- the controls
hear("measure", "change", (event) => {
  S.by = event.target.value;
  rank();
  refresh();
});
hear("size", "input", (event) => {
  S.n = steps[+event.target.value];
  refresh();
});
hear("number", "change", (event) => {
  S.n = round(+event.target.value) || 1;
  refresh();
});
hear("search", "input", (event) => {
  S.q = event.target.value;
  search();
  fullTable();
  remember();
});
hear("search", "keydown", (event) => {
  if (event.key === "Enter") found();
});
hear("as-table", "click", () => {
  S.table = !S.table;
  refresh();
  if (!S.table) fit();
});
hear("theme", "click", () => {
  S.theme = {"": "light", light: "dark", dark: ""}[S.theme];
  paint();
  remember();
});
hear("closer", "click", closer);
hear("farther", "click", farther);
hear("fit", "click", () => fit());
for (const chip of chips("role")) chip.addEventListener("click", () => choose({role: S.role === chip.dataset.role ? "" : chip.dataset.role}));
for (const chip of chips("side")) chip.addEventListener("click", () => {
  const k = +chip.dataset.side;
  S.hide = S.hide.includes(k) ? S.hide.filter((x) => x !== k) : [...S.hide, k];
  refresh();
});

addEventListener("hashchange", recall);
addEventListener("resize", () => fit());
let across;  // a frame may have no width yet
new ResizeObserver(() => {
  if (across !== (across = pane.clientWidth)) fit();
}).observe(pane);
recall();
fit();
pane.scrollTop = 0;
boxes[cursor].tabIndex = 0;
if (S.node >= 0) at(S.node, false);
root.dataset.ready = "1";
})();
