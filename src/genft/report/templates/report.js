"use strict";
// Everything on the page is drawn from the JSON embedded next to this script. The filters and the open panel are stored
// in the address after the #, so that a view can be bookmarked and shared.

const { boards } = JSON.parse(document.getElementById("data").textContent);
const methods = [...new Set(boards.flatMap(b => b.methods.map(m => m.label)))];
const groups = [...new Set(boards.flatMap(b => b.tasks.map(t => groupOf(b, t))))].sort();
const protocols = [...new Set(boards.map(b => b.protocol.name))];
const hidden = { methods: new Set(), groups: new Set(), protocols: new Set() };
const sorting = new Map(); // board → {column, up}

window.addEventListener("error", e => {
  document.getElementById("boards").prepend(h("p", { class: "alert" }, `This page could not be drawn: ${e.message}`));
});

// Elements

function make(namespace, tag, attributes, children) {
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null));
  return element;
}
const h = (tag, attributes, ...children) => make("http://www.w3.org/1999/xhtml", tag, attributes, children);
const s = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

/** A table that scrolls if the page is narrower. */
const table = (label, heads, rows, attributes = {}) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
  h("table", attributes, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)));
const heads = texts => texts.map(text => h("th", { scope: "col" }, text));
const cellsOf = texts => texts.map(text => h("td", {}, text));

/** Attributes that make an element of a drawing act as a button. */
function pressable(label, press) {
  const key = e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); press(); } };
  return { role: "button", tabindex: 0, "aria-label": label, onclick: press, onkeydown: key };
}

// A method has the same colour and mark everywhere

const MARKS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.8L4.6 3.6H-4.6z", "M0-5L5 0L0 5L-5 0z",
  "M0 4.8L4.6-3.6H-4.6z", "M-1.4-4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2z",
];
const colour = label => `var(--c${methods.indexOf(label) % 8})`;
const mark = (label, x, y) =>
  s("path", { d: MARKS[methods.indexOf(label) % MARKS.length], transform: `translate(${x} ${y})`, fill: colour(label) });
const icon = label => s("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(label, 0, 0));
const named = label => h("span", { class: "name" }, icon(label), label);

// Numbers

/** A score in the format of its metric, mostly × 100. Values that are not finite arrive as null. */
const score = (metric, v) => v === null ? "not finite" : (metric.scale * v).toFixed(metric.digits).replace("-", "−");
const count = n => n < 1e7 ? Math.round(n).toLocaleString("en") : `${(n / 1e6).toFixed(2)} M`;
const short = n => n >= 1e6 ? `${+(n / 1e6).toPrecision(3)} M` : n >= 1e3 ? `${+(n / 1e3).toPrecision(3)} k` : `${+n.toPrecision(3)}`;
function size(n) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (n >= scale) return `${+(n / scale).toPrecision(3)} ${unit}`;
  return `${n} B`;
}
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
const sentence = text => `${text[0].toUpperCase()}${text.slice(1)}.`;
const spread = (metric, value, deviation) => [score(metric, value), h("span", { class: "sd" }, deviation === null ? "" : ` ± ${score(metric, deviation)}`)];
/** The common name and unit of several metrics, if they have one. */
function measure(metrics) {
  const [names, units] = [new Set(metrics.map(m => m.name)), new Set(metrics.map(m => m.unit))];
  return (names.size === 1 ? [...names][0] : "score") + (units.size === 1 ? [...units][0] : "");
}

function deviation(values) {
  const m = mean(values);
  return values.length > 1 ? Math.sqrt(values.reduce((a, v) => a + (v - m) ** 2, 0) / (values.length - 1)) : null;
}

// The visible part of a board, and its means: only over tasks that each of the methods has

function groupOf(board, task) {
  return [board.suite_title, task.group].filter(Boolean).join(" ") || "other tasks";
}

function view(board) {
  const tasks = board.tasks.filter(t => !hidden.groups.has(groupOf(board, t)));
  const cells = new Map(board.scores.map(c => [c.task + "\n" + c.label, c]));
  const cell = (task, label) => cells.get(task.name + "\n" + label) ?? null;
  const scored = (task, label) => (cell(task, label)?.mean ?? null) !== null;
  const metric = task => ({ name: task.metric, ...board.metrics[task.metric] });
  const shown = board.methods.filter(m => !hidden.methods.has(m.label) && tasks.some(t => cell(t, m.label)));
  const has = m => tasks.every(t => scored(t, m.label));
  let common = tasks.filter(t => shown.every(m => scored(t, m.label)));
  let complete = common.length ? shown : [];
  if (tasks.length * shown.filter(has).length > common.length * shown.length) [common, complete] = [tasks, shown.filter(has)];
  const alike = new Set(common.map(t => `${metric(t).scale} ${metric(t).higher_is_better}`)).size === 1;
  const meanMetric = alike ? { ...metric(common[0]), name: "mean score" } : null; // null: scores that cannot be averaged
  const over = (some, label) => {
    const rows = some.map(t => new Map(cell(t, label).runs.map(r => [r.seed, r.scores.value])));
    const seeds = [...rows[0].keys()].filter(seed => rows.every(row => row.has(seed)));
    return { mean: mean(some.map(t => cell(t, label).mean)), deviation: deviation(seeds.map(x => mean(rows.map(row => row.get(x))))) };
  };
  const rank = (task, label) => {
    const better = metric(task).higher_is_better ? 1 : -1;
    const all = complete.map(m => better * cell(task, m.label).mean), own = better * cell(task, label).mean;
    return 1 + all.filter(v => v > own).length + (all.filter(v => v === own).length - 1) / 2;
  };
  const names = [...new Set(common.map(t => t.group))].filter(Boolean).sort();
  const parts = names.length > 1 ? names.map(name => ({ name, tasks: common.filter(t => t.group === name) })) : [];
  const means = new Map(complete.map(m => [m.label, {
    ...over(common, m.label),
    rank: mean(common.map(t => rank(t, m.label))),
    parts: parts.map(part => over(part.tasks, m.label)),
  }]));
  return { board, tasks, methods: shown, cell, metric, meanMetric, common, complete, parts, means };
}

// The leaderboard

function leaderboard(v) {
  const { board } = v;
  const of = m => v.means.get(m.label);
  const low = v.meanMetric?.higher_is_better === false; // columns where lower is better sort upwards
  const column = (name, value, text = m => score(v.meanMetric, value(m))) => ({ name, value: m => of(m) && value(m), text: m => of(m) && text(m), up: low });
  const means = [column(`mean of ${v.common.length} task${v.common.length === 1 ? "" : "s"}`, m => of(m).mean, m => spread(v.meanMetric, of(m).mean, of(m).deviation))];
  const groups = v.parts.map((part, i) => column(`mean, ${part.name} (${part.tasks.length})`, m => of(m).parts[i].mean));
  if (groups.length) groups.push(column("mean of group means", m => mean(of(m).parts.map(p => p.mean))));
  const columns = [
    { name: "method", value: m => m.label, text: m => named(m.label), up: true },
    ...(v.meanMetric ? means : []),
    { name: "mean rank", value: m => of(m)?.rank, text: m => of(m)?.rank.toFixed(2), up: true },
    ...(v.meanMetric ? groups : []),
    { name: "adapter", value: m => m.adapter_parameters, text: m => count(m.adapter_parameters), up: true, plain: true },
    { name: "head", value: m => m.head_parameters, text: m => count(m.head_parameters), up: true, plain: true },
    { name: "s/step", value: m => m.seconds_per_step, text: m => m.seconds_per_step?.toFixed(3), up: true, plain: true },
    { name: "memory", value: m => m.peak_memory_bytes, text: m => size(m.peak_memory_bytes), up: true, plain: true },
    { name: "epochs", value: m => m.epochs[0], text: m => m.epochs.join(", "), up: true, plain: true },
    ...v.tasks.map(t => ({
      name: t.name + (t.metric === "accuracy" ? "" : ` (${t.metric})`), value: m => v.cell(t, m.label)?.mean,
      text: m => v.cell(t, m.label) && number(v, t, m.label), up: !v.metric(t).higher_is_better,
    })),
  ];
  const chosen = sorting.get(board) ?? (v.complete.length ? { column: "mean rank", up: true } : { column: "method", up: true });
  const by = columns.find(c => c.name === chosen.column) ?? columns[0];
  const compare = (a, b) => {
    const [x, y] = [by.value(a), by.value(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    return (x < y ? -1 : x > y ? 1 : 0) * (chosen.up ? 1 : -1);
  };
  const rows = [...v.methods].sort(compare);
  const best = columns.map(c => {
    const values = rows.map(c.value).filter(x => typeof x === "number");
    return c.plain || new Set(values).size < 2 ? null : c.up ? Math.min(...values) : Math.max(...values);
  });
  const sort = c => () => {
    sorting.set(board, { column: c.name, up: c === by ? !chosen.up : !!c.up });
    draw();
  };
  return table(`Leaderboard of ${board.heading}`,
    columns.map(c => h("th", { scope: "col", "aria-sort": c === by && (chosen.up ? "ascending" : "descending") }, h("button", { type: "button", onclick: sort(c) }, c.name))),
    rows.map(m => h("tr", { "data-method": m.label }, columns.map((c, i) =>
      h("td", { class: c.value(m) === best[i] && best[i] !== null && "best", "data-column": c.name }, c.text(m) ?? "–")))),
    { class: "leaderboard" });
}

/** A score that opens its runs. */
function number(v, task, label) {
  const cell = v.cell(task, label), metric = v.metric(task), constant = cell.runs.filter(r => r.constant).length;
  const remarks = [cell.n < v.board.seeds.length && `n=${cell.n}`, constant && (constant === cell.n ? "constant" : `${constant} constant`)].filter(Boolean);
  return h("button", { type: "button", "aria-label": `${label} on ${task.name}: ${score(metric, cell.mean)}; show its runs`, onclick: () => open(cell.runs[0].key) },
    spread(metric, cell.mean, cell.deviation), remarks.length ? h("span", { class: "sd" }, ` ${remarks.join(", ")}`) : null);
}

function notes(v) {
  const { board } = v;
  const seeds = `${board.seeds.length} seed${board.seeds.length === 1 ? "" : "s"} (${board.seeds.join(", ")})`;
  const lines = [`Under ${board.protocol.note}. ${sentence(measure(v.tasks.map(v.metric)))} Mean ± standard deviation over ${seeds}.`];
  const without = v.methods.filter(m => !v.complete.includes(m)).map(m => m.label);
  const lower = [...new Set(v.tasks.map(v.metric).filter(m => !m.higher_is_better).map(m => m.name))];
  if (lower.length) lines.push(`Lower is better: ${lower.join(", ")}.`);
  if (!v.common.length) lines.push("No task has a score for every method shown: no means.");
  else if (without.length) lines.push(`Means and mean ranks are for the methods that have every task, not for ${without.join(", ")}.`);
  else if (v.common.length < v.tasks.length) lines.push(`Means and mean ranks are over the tasks that every method shown has: ${v.common.map(t => t.name).join(", ")}.`);
  if (v.common.length && !v.meanMetric) lines.push("No means: the tasks are scored on different scales.");
  return [...lines.map(line => h("p", { class: "quiet" }, line)), doubts(board)];
}

/** What to know before trusting a number: missing seeds, collapsed training runs, mixed settings. */
function doubts(board) {
  if (!board.doubts.length) return null;
  return h("details", { class: "doubts", open: board.doubts.length < 4 && "" }, h("summary", {}, `Before you trust a number (${board.doubts.length})`),
    h("ul", { class: "quiet" }, board.doubts.map(line => h("li", {}, line))));
}

// Drawings

/** Round tick values between two numbers; integers only if ``whole``. */
function ticks(low, high, whole = false) {
  const rough = Math.max((high - low) / (whole ? 6 : 4), whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(rough));
  const step = (whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map(x => x * power).find(x => x >= rough);
  const marks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) marks.push(+t.toPrecision(12));
  return marks;
}

/** Scales and axes of a drawing of W × H; x is logarithmic if it covers a decade and is not a count (``whole``). */
function frame(W, H, xs, ys, { xTitle, yTitle, xText, pad = 0.08, whole = false }) {
  const [left, right, top, bottom] = [34, 8, 26, 40];
  const log = !whole && Math.max(...xs) >= 10 * Math.min(...xs);
  const f = log ? Math.log10 : x => x;
  const single = low => low > 0 && low < 1 ? [low / 2, low * 1.5] : [low - 1, low + 1];
  const stretch = (low, high) => low === high ? single(low) : [low - pad * (high - low), high + pad * (high - low)];
  const [x0, x1] = whole ? [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)] : stretch(f(Math.min(...xs)), f(Math.max(...xs)));
  const [y0, y1] = stretch(Math.min(...ys), Math.max(...ys));
  const x = v => left + (f(v) - x0) / (x1 - x0) * (W - left - right);
  const y = v => H - bottom - (v - y0) / (y1 - y0) * (H - top - bottom);
  const decades = x1 - x0 < 2.5 ? [1, 3] : [1];
  const powers = Array.from({ length: 14 }, (_, i) => 10 ** (i - 4)).flatMap(p => decades.map(d => d * p));
  const xTicks = log ? powers.filter(t => f(t) >= x0 && f(t) <= x1) : ticks(x0, x1, whole);
  const texts = xTicks.map(xText), once = xTicks.filter((_, i) => texts.indexOf(texts[i]) === i);
  const axes = s("g", {},
    ticks(y0, y1).map(t => [s("path", { class: "axis", d: `M${left} ${y(t)}H${W - right}` }), s("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, t)]),
    once.map(t => s("text", { x: x(t), y: H - bottom + 16, "text-anchor": "middle" }, xText(t))),
    s("text", { class: "title", x: 0, y: 10 }, yTitle), s("text", { class: "title", x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, xTitle));
  return { x, y, axes };
}

/** Mean scores against a cost; the line joins methods that no other beats in both. */
function pareto(v, title, cost, text) {
  const W = 320, H = 250, metric = v.meanMetric;
  if (!metric) return null;
  const points = v.complete.map(m => ({ m, x: cost(m), y: metric.scale * v.means.get(m.label).mean })).filter(p => p.x > 0);
  if (!points.length) return null;
  const better = metric.higher_is_better ? 1 : -1;
  const { x, y, axes } = frame(W, H, points.map(p => p.x), points.map(p => p.y), { xTitle: title, yTitle: measure([metric]), xText: text, pad: 0.15 });
  const beats = (q, p) => q.x <= p.x && better * q.y >= better * p.y && (q.x < p.x || q.y !== p.y);
  const front = points.filter(p => !points.some(q => beats(q, p))).sort((a, b) => a.x - b.x);
  const line = front.map((p, i) => i ? `H${x(p.x)}V${y(p.y)}` : `M${x(p.x)} ${y(p.y)}`).join("");
  const taken = points.map(p => ({ l: x(p.x) - 6, r: x(p.x) + 6, t: y(p.y) - 6, b: y(p.y) + 6 }));
  const labels = points.map(p => {
    const [px, py, width] = [x(p.x), y(p.y), 6.2 * p.m.label.length];
    const places = [[px + 9, py], [px - 9 - width, py], [px - width / 2, py - 13], [px - width / 2, py + 13]]
      .map(([l, middle]) => ({ l, r: l + width, t: middle - 6, b: middle + 6 }));
    const clashes = q => (q.r > W) + (q.l < 0) + taken.filter(o => o.l < q.r && q.l < o.r && o.t < q.b && q.t < o.b).length;
    const place = places.reduce((best, q) => clashes(q) < clashes(best) ? q : best);
    if (clashes(place)) return null; // its mark, colour and title still identify it
    taken.push(place);
    return s("text", { class: "label", x: place.l, y: place.b - 2, "aria-hidden": "true" }, p.m.label);
  });
  const runsOf = m => v.cell(v.common[0], m.label).runs[0].key;
  return h("figure", { class: "card" }, s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `Mean score against ${title}` },
    axes, s("path", { class: "front", d: line }), labels,
    points.map(p => s("g", pressable(`${p.m.label}: mean ${p.y.toFixed(2)}, ${text(p.x)}`, () => open(runsOf(p.m))),
      s("title", {}, `${p.m.label}: mean ${p.y.toFixed(2)}, ${text(p.x)}`), mark(p.m.label, x(p.x), y(p.y)),
      s("circle", { cx: x(p.x), cy: y(p.y), r: 9, fill: "transparent" })))));
}

/** A label in 18 letters: its beginning or, if another label begins alike, its end, where settings differ. */
function shortened(label, all) {
  if (label.length <= 18) return label;
  const begin = label.slice(0, 17), alike = all.filter(l => l.startsWith(begin)).length > 1;
  return alike ? "…" + label.slice(-17) : begin + "…";
}

/** One task: a bar per method from zero, the spread over seeds, and what papers print. */
function bars(v, task) {
  const metric = v.metric(task), better = metric.higher_is_better ? 1 : -1;
  const rows = v.methods.filter(m => (v.cell(task, m.label)?.mean ?? null) !== null).map(m => ({ m, c: v.cell(task, m.label) })).sort((a, b) => better * (b.c.mean - a.c.mean));
  if (!rows.length) return null;
  const W = 320, step = 22, H = rows.length * step + 4;
  const wide = Math.min(120, 14 + 6.4 * Math.max(...rows.map(r => r.m.label.length)));
  const values = rows.flatMap(r => [metric.scale * r.c.mean, ...r.c.published.slice(0, 1).map(p => p.value)]);
  const low = Math.min(0, ...values), high = metric.scale === 100 ? 100 : Math.max(...values, low + 1e-9);
  const x = value => wide + (value - low) / (high - low) * (W - wide - 46);
  const drawn = rows.map(({ m, c }, i) => {
    const y = i * step + step / 2, value = metric.scale * c.mean, sd = metric.scale * (c.deviation ?? 0);
    const printed = c.published[0];
    const text = `${m.label} on ${task.name}: ${score(metric, c.mean)}${c.deviation === null ? "" : ` ± ${score(metric, c.deviation)}`}` + c.published.map(p => `; ${p.source}, ${p.backbone}: ${p.value}`).join("");
    return s("g", pressable(`${text}; show its runs`, () => open(c.runs[0].key)), s("title", {}, text),
      s("rect", { x: 0, y: y - step / 2, width: W, height: step, fill: "transparent" }),
      s("text", { class: "label", x: 0, y: y + 4 }, shortened(m.label, rows.map(r => r.m.label))),
      s("rect", { x: Math.min(x(0), x(value)), y: y - 6, width: Math.abs(x(value) - x(0)), height: 12, rx: 1.5, fill: colour(m.label) }),
      sd ? s("path", { class: "spread", d: `M${x(value - sd)} ${y}H${x(Math.min(high, value + sd))}` }) : null,
      printed ? s("path", { class: "published", d: "M0-5L5 0L0 5L-5 0z", transform: `translate(${x(printed.value)} ${y})` }) : null,
      s("text", { class: "value", x: W, y: y + 4, "text-anchor": "end" }, score(metric, c.mean)));
  });
  return h("figure", { class: "card" }, h("h4", {}, task.name, h("span", { class: "sd" }, `, ${measure([metric])}`)),
    s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `Scores on ${task.name}` }, drawn));
}

/** One task: the selection split's score after every epoch, thin for a seed, bold for their mean. */
function curves(v, task) {
  const W = 320, H = 230, metric = v.metric(task);
  const epochs = r => r.history.epochs.filter(e => e[metric.name] != null).map(e => [e.epoch, metric.scale * e[metric.name]]);
  const lines = v.methods.filter(m => v.cell(task, m.label)).map(m => ({ m, seeds: v.cell(task, m.label).runs.map(epochs) }));
  const all = lines.flatMap(l => l.seeds.flat());
  if (!all.length) return null;
  const { x, y, axes } = frame(W, H, all.map(p => p[0]), all.map(p => p[1]), { xTitle: "epoch", yTitle: `${measure([metric])}, selection split`, xText: t => `${t}`, whole: true });
  const path = points => points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
  const average = seeds => seeds[0].filter(p => seeds.every(q => q.some(z => z[0] === p[0]))).map(([epoch]) => [epoch, mean(seeds.map(q => q.find(z => z[0] === epoch)[1]))]);
  return h("figure", { class: "card" }, h("h4", {}, task.name),
    s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${metric.name} on the selection split of ${task.name} after every epoch` }, axes,
      lines.map(l => l.seeds.length > 1 ? l.seeds.map(points => s("path", { class: "seed", d: path(points), stroke: colour(l.m.label) })) : null),
      lines.map(l => {
        const points = average(l.seeds);
        return s("g", {}, s("title", {}, l.m.label), s("path", { class: "line", d: path(points), stroke: colour(l.m.label) }), points.slice(-1).map(p => mark(l.m.label, x(p[0]), y(p[1]))));
      })));
}

// Which differences are real

function differences(v) {
  const d = v.board.differences, others = v.methods.filter(m => m.label !== d.reference);
  const tested = new Map(d.tasks.map(t => [t.task + "\n" + t.label, t]));
  const text = (t, metric) => [t.real ? (t.value > 0 === metric.higher_is_better ? "▲ " : "▼ ") : "", `${t.value > 0 ? "+" : ""}${score(metric, t.value)} `, h("span", { class: "sd" }, `[${score(metric, t.low)}, ${score(metric, t.high)}]`)];
  const cell = (t, task, m) => h("td", { class: t?.real && "best" }, !t ? "–" : !task ? text(t, v.meanMetric) : h("button", { type: "button", onclick: () => open(v.cell(task, m.label).runs[0].key) }, text(t, v.metric(task))));
  const whole = v.tasks.length > 1 && v.tasks.length === v.board.tasks.length && v.board.means.length && v.meanMetric;
  return [
    h("p", { class: "quiet" }, `Each method minus ${d.reference}, ${measure(v.tasks.map(v.metric))}, with the 95 % interval of a paired bootstrap over examples${v.board.seeds.length > 1 ? " and seeds" : "; one seed, so it does not cover other seeds"}. ▲ better, ▼ worse: p < 0.05 after Holm's correction over all differences of the table.`),
    d.notes.length ? h("ul", { class: "quiet" }, d.notes.map(note => h("li", {}, note))) : null,
    table("Differences", heads(["task", ...others.map(m => m.label)]), [
      v.tasks.map(t => h("tr", {}, h("td", {}, t.name), others.map(m => cell(tested.get(t.name + "\n" + m.label), t, m)))),
      whole ? h("tr", {}, h("td", {}, v.board.means[0].name), others.map(m => cell(d.means[m.label], null, m))) : null,
    ]),
  ];
}

// The panel with the runs behind a number

const panel = document.getElementById("panel");
panel.addEventListener("close", () => address({ run: null }));
panel.addEventListener("click", e => { if (e.target === panel) panel.close(); });

function open(key) {
  for (const board of boards) for (const cell of board.scores) if (cell.runs.some(r => r.key === key)) {
    fill(board, cell, key);
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    address({ run: key });
  }
}

function fill(board, cell, key) {
  const { metric: name } = cell.runs[0].scores, metric = board.metrics[name];
  const rows = cell.runs.map(r => h("tr", {}, cellsOf([
    r.seed, score(metric, r.scores.value), r.scores.interval.map(x => score(metric, x)).join("–"), `${r.history.best_epoch} of ${r.history.epochs.length}`,
    r.cost.seconds_per_step?.toFixed(3) ?? "–", `${Math.round(r.cost.seconds)} s`, size(r.cost.peak_memory_bytes),
  ])));
  const printed = cell.published.map(p => h("li", {}, `${p.value}: ${p.source}, ${p.backbone}${p.note ? ` (${p.note})` : ""}`));
  panel.replaceChildren(
    h("div", { class: "top" }, h("h2", { id: "panel-title" }, named(cell.label), ` on ${cell.task} `), h("button", { type: "button", class: "plain", onclick: () => panel.close() }, "Close")),
    limited(board),
    cell.runs.some(r => r.constant) ? h("p", { class: "alert" }, `Seed ${cell.runs.filter(r => r.constant).map(r => r.seed).join(", ")}: the same prediction for every example; training collapsed.`) : "",
    h("p", { class: "quiet" }, `${sentence(board.protocol.note)} ${sentence(`${name}${metric.unit}: ${metric.text}${metric.higher_is_better ? "" : ", lower is better"}`)}`),
    table("Runs", heads(["seed", name, "95 % over examples", "best epoch", "s/step", "run", "memory"]), rows),
    printed.length ? h("div", {}, h("h3", {}, "Published"), h("ul", {}, printed)) : "",
    h("h3", {}, cell.runs.length === 1 ? "The run" : "The runs"),
    ...cell.runs.map(r => run(board, r, r.key === key)));
}

/** A score by a metric that the board may not use; a further split is named in brackets after it. */
function metricText(board, name, x) {
  const known = board.metrics[name.replace(/ \(.*/, "")];
  return known ? score(known, x) : `${x}`;
}

function run(board, r, isOpen) {
  const facts = {
    model: r.model, settings: Object.entries(r.spec.settings ?? {}).map(([name, x]) => `${name}=${typeof x === "string" ? x : JSON.stringify(x)}`).join(", ") || "the method's own", "trained parameters": `${count(r.counts.adapter)} of the adapter, ${count(r.counts.head)} of the head, of ${count(r.counts.total)}`,
    examples: Object.entries(r.examples).map(([name, n]) => `${n.toLocaleString("en")} ${name}`).join(", "), "other metrics": Object.entries(r.scores.metrics).filter(([name]) => name !== r.scores.metric).map(([name, x]) => `${name} ${metricText(board, name, x)}`).join(", "),
    adapter: `${r.adapter} (${size(r.cost.adapter_bytes)})`, device: r.provenance.device, versions: Object.entries(r.provenance.versions).map(pair => pair.join(" ")).join(", "), started: r.provenance.started,
    "fingerprints": `model ${r.provenance.model_fingerprint.slice(0, 16)}, data ${r.provenance.data_fingerprint.slice(0, 16)}`, key: r.key,
  };
  const copy = e => navigator.clipboard?.writeText(r.command).then(() => { e.target.textContent = "Copied"; });
  return h("details", { open: isOpen && "" }, h("summary", {}, `seed ${r.seed}, learning rate ${r.spec.training?.learning_rate ?? "–"}, ${r.history.epochs.length} epochs${r.limited ? ", limited data" : ""}`),
    r.command ? h("pre", {}, r.command) : h("p", { class: "quiet" }, "A task of your own suite: run the bench that produced it to repeat it."),
    r.command ? h("button", { type: "button", class: "plain", onclick: copy }, "Copy the command") : null,
    h("dl", {}, Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("details", {}, h("summary", {}, "Full specification"), h("pre", {}, JSON.stringify(r.spec, null, 1))));
}

// The page

const limited = board => board.limits.text ? h("p", {}, h("span", { class: "tag limited" }, `limited to ${board.limits.text}`)) : "";

function section(board) {
  const v = view(board);
  if (!v.tasks.length || !v.methods.length) return null;
  const titled = (text, ...content) => [h("h3", {}, text), ...content];
  const cards = figures => h("div", { class: "cards" }, figures.filter(Boolean));
  const costs = [
    pareto(v, "trained parameters, head included", m => m.adapter_parameters + m.head_parameters, short),
    pareto(v, "seconds per step", m => m.seconds_per_step, x => `${+x.toPrecision(3)}`),
    pareto(v, "peak memory", m => m.peak_memory_bytes, size),
  ].filter(Boolean);
  const sources = [...new Set(v.tasks.flatMap(t => v.methods.flatMap(m => (v.cell(t, m.label)?.published ?? []).slice(0, 1).map(p => `${p.source}, ${p.backbone}`))))];
  return h("section", {},
    h("h2", {}, board.title), limited(board), notes(v), leaderboard(v),
    costs.length ? titled("Mean score against cost", cards(costs)) : [],
    titled("Task by task", sources.length ? h("p", { class: "quiet" }, `◇ published, on all data: ${sources.join("; ")}. This model: ${board.model}.`) : "", cards(v.tasks.map(t => bars(v, t)))),
    v.methods.length > 1 ? titled("Which differences are real", ...differences(v)) : [],
    titled("Training", cards(v.tasks.map(t => curves(v, t)))));
}

function draw() {
  const focused = document.activeElement?.closest?.("th")?.textContent;
  const shown = boards.filter(b => !hidden.protocols.has(b.protocol.name)).map(section).filter(Boolean);
  document.getElementById("boards").replaceChildren(...(shown.length ? shown : [h("p", { class: "alert" }, "Nothing to show: enable a filter.")]));
  if (focused) [...document.querySelectorAll("th")].find(th => th.textContent === focused)?.querySelector("button")?.focus();
}

function filters() {
  const chips = (name, title, values) => values.length < 2 ? null : h("fieldset", {}, h("legend", {}, title), values.map(value => {
    const toggle = e => {
      hidden[name][e.target.checked ? "delete" : "add"](value);
      address({ [name]: values.filter(x => !hidden[name].has(x)) });
      draw();
    };
    return h("label", { class: "chip" }, h("input", { type: "checkbox", checked: !hidden[name].has(value) && "", onchange: toggle }), name === "methods" ? icon(value) : "", value);
  }));
  const form = document.getElementById("filters");
  form.replaceChildren(...[chips("methods", "Methods", methods), chips("groups", "Tasks", groups), chips("protocols", "Protocols", protocols)].filter(Boolean));
  form.hidden = !form.children.length;
}

/** Store the view in the address; complete lists and a closed panel are left out. */
function address(changes) {
  const view = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || (Array.isArray(value) && !hidden[name].size)) view.delete(name);
    else view.set(name, Array.isArray(value) ? JSON.stringify(value) : value);
  }
  history.replaceState(null, "", view.size ? `#${view}` : location.pathname + location.search);
}

function begin() {
  const view = new URLSearchParams(location.hash.slice(1));
  for (const [name, values] of Object.entries({ methods, groups, protocols })) {
    const wanted = view.has(name) ? JSON.parse(view.get(name)) : values;
    hidden[name] = new Set(values.filter(value => !wanted.includes(value)));
  }
  filters();
  draw();
  if (view.has("run")) open(view.get("run"));
}

window.addEventListener("hashchange", begin);
begin();
