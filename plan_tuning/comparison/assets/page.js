"use strict";
(async () => {
  const ROW_HEIGHT = 44, MARGIN_ROWS = 12;
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  const data = await unpack($("data").textContent.trim());
  const text = (index) => data.strings[index] || "";

  // Columns of the packed rows; comparison/browser.py writes them in this order.
  const predictions = data.predictions.map(([run, problem, sample, verdict, answer, plan, reply, tokens, finish]) =>
    ({ run, problem, sample, verdict: data.verdicts[verdict], answer, plan, reply, tokens, finish: text(finish) }));
  const trajectories = data.trajectories.map(
    ([corpus, id, candidate, problem, gold, plan, score, scoreText, execution, answer, verdict, constraints, status]) =>
      ({ corpus, id, candidate, problem, gold, plan, score, scoreText, execution, answer,
         verdict: verdict < 0 ? "not executed" : data.verdicts[verdict], constraints, status: text(status) }));
  const bySlot = new Map(); // run/problem/sample -> prediction
  const byProblem = new Map();
  const slot = (run, problem, sample) => `${run}/${problem}/${sample}`;
  for (const p of predictions) {
    bySlot.set(slot(p.run, p.problem, p.sample), p);
    if (!byProblem.has(p.problem)) byProblem.set(p.problem, []);
    byProblem.get(p.problem).push(p);
  }
  const byTrainingProblem = new Map();
  for (const t of trajectories) {
    const key = `${t.corpus}/${t.id}`;
    if (!byTrainingProblem.has(key)) byTrainingProblem.set(key, []);
    byTrainingProblem.get(key).push(t);
  }
  const isRight = (row) => row.verdict === "correct";

  // ---- state, kept in the address so that a view can be sent to somebody
  const state = { tab: "predictions", benchmark: "", method: "", a: "", b: "", verdict: "", pair: "", corpus: "",
                  score: "", find: "", at: "0", ca: "", cb: "" };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (key in state) state[key] = value;
  const save = () => {
    const kept = Object.entries(state).filter(([key, value]) => value !== "" && !(key === "at" && value === "0"));
    history.replaceState(null, "", "#" + new URLSearchParams(kept));
  };

  // ---- filters
  const options = (pairs) => pairs.map(([value, label]) => {
    const option = el("option", label);
    option.value = value;
    return option;
  });
  const choose = (key, label, pairs) => {
    const select = el("select");
    select.id = "f-" + key;
    select.append(...options(pairs));
    select.value = state[key];
    if (select.value !== state[key]) { state[key] = ""; select.value = pairs[0][0]; }
    select.onchange = () => { state[key] = select.value; state.at = "0"; drawFilters(); apply(); };
    const wrap = el("label", label + " ");
    wrap.append(select);
    return wrap;
  };
  const runPairs = (first) => [["", first], ...data.runs.map((run, i) => [String(i), run.label])];
  const used = (rows) => [...new Set(rows.map((row) => row.verdict))].sort();
  const drawFilters = () => {
    const parts = [];
    if (state.tab === "predictions") {
      const methods = [...new Set(data.runs.map((run) => run.method))];
      parts.push(choose("benchmark", "benchmark", [["", "all"], ...data.benchmarks.map((name) => [name, name])]));
      parts.push(choose("method", "method", [["", "all"], ...methods.map((name) => [name, name])]));
      parts.push(choose("a", "run", runPairs("all")));
      parts.push(choose("b", "against", runPairs("none")));
      parts.push(choose("verdict", "verdict", [["", "all"], ...used(predictions).map((v) => [v, v])]));
      if (state.a !== "" && state.b !== "") {
        parts.push(choose("pair", "the two", [["", "all"], ["gained", "only the first is right"],
          ["lost", "only the second is right"], ["differ", "disagree"], ["right", "both right"], ["wrong", "both wrong"]]));
      }
    } else {
      parts.push(choose("corpus", "corpus", [["", "all"], ...data.corpora.map((name, i) => [String(i), name])]));
      parts.push(choose("verdict", "verdict", [["", "all"], ...used(trajectories).map((v) => [v, v])]));
      parts.push(choose("score", "plan score", [["", "all"], ["80", "80 and above"], ["low", "below 80"], ["none", "unreadable"]]));
    }
    const find = el("input");
    find.id = "f-find";
    find.type = "search";
    find.placeholder = "find in problems and answers";
    find.value = state.find;
    find.oninput = () => { state.find = find.value; state.at = "0"; apply(); };
    parts.push(find);
    $("filters").replaceChildren(...parts);
  };

  // ---- which rows are shown
  let rows = [];
  const contains = (words, ...indices) => indices.some((i) => text(i).toLowerCase().includes(words));
  const keepsPrediction = (p, words) => {
    const problem = data.problems[p.problem];
    if (state.benchmark && data.benchmarks[problem[0]] !== state.benchmark) return false;
    if (state.a !== "" && p.run !== Number(state.a)) return false;
    if (state.method && data.runs[p.run].method !== state.method) return false;
    if (state.verdict && p.verdict !== state.verdict) return false;
    if (state.a !== "" && state.b !== "") {
      const other = bySlot.get(slot(Number(state.b), p.problem, p.sample));
      if (!other) return false;
      const one = isRight(p), two = isRight(other);
      if (state.pair === "gained" && !(one && !two)) return false;
      if (state.pair === "lost" && !(two && !one)) return false;
      if (state.pair === "differ" && one === two) return false;
      if (state.pair === "right" && !(one && two)) return false;
      if (state.pair === "wrong" && (one || two)) return false;
    }
    return !words || contains(words, problem[1], problem[3], p.reply, p.plan);
  };
  const keepsTrajectory = (t, words) => {
    if (state.corpus !== "" && t.corpus !== Number(state.corpus)) return false;
    if (state.verdict && t.verdict !== state.verdict) return false;
    if (state.score === "80" && !(t.score !== null && t.score >= 80)) return false;
    if (state.score === "low" && !(t.score !== null && t.score < 80)) return false;
    if (state.score === "none" && t.score !== null) return false;
    return !words || contains(words, t.id, t.problem, t.plan, t.execution);
  };
  const apply = () => {
    const words = state.find.trim().toLowerCase();
    const isPredictions = state.tab === "predictions";
    rows = isPredictions ? predictions.filter((p) => keepsPrediction(p, words))
                         : trajectories.filter((t) => keepsTrajectory(t, words));
    const total = isPredictions ? predictions.length : trajectories.length;
    $("shown").textContent = `${rows.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    $("sizer").style.height = rows.length * ROW_HEIGHT + "px";
    select(Math.min(Number(state.at) || 0, Math.max(0, rows.length - 1)), true);
  };

  // ---- the list draws only the lines that are in view
  const line = (row, index) => {
    const node = el("div", undefined, "item" + (index === Number(state.at) ? " on" : ""));
    node.style.top = index * ROW_HEIGHT + "px";
    node.dataset.index = index;
    const head = el("div");
    head.append(el("span", isRight(row) ? "✓" : "✗", "mark " + (isRight(row) ? "right" : "wrong")));
    if (state.tab === "predictions") {
      const problem = data.problems[row.problem];
      head.append(` ${text(problem[1])} · ${row.verdict} · ${text(row.answer) || "no answer"}`);
      node.append(head, el("div", data.runs[row.run].label, "under"));
    } else {
      head.append(` ${text(row.id)} · plan ${row.candidate} · score ${row.score === null ? "–" : row.score}`);
      node.append(head, el("div", `${row.verdict} · ${text(row.problem)}`, "under"));
    }
    return node;
  };
  const paint = () => {
    const list = $("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - MARGIN_ROWS);
    const last = Math.min(rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + MARGIN_ROWS);
    const lines = [];
    for (let i = first; i < last; i++) lines.push(line(rows[i], i));
    $("sizer").replaceChildren(...lines);
  };
  const select = (index, shouldScroll) => {
    state.at = String(index);
    const list = $("list"), top = index * ROW_HEIGHT;
    if (shouldScroll && (top < list.scrollTop || top + ROW_HEIGHT > list.scrollTop + list.clientHeight)) {
      list.scrollTop = Math.max(0, top - list.clientHeight / 3);
    }
    paint();
    detail();
    save();
  };

  // ---- one problem, side by side
  const block = (parent, title, content) => {
    if (!content) return;
    parent.append(el("h4", title), el("pre", content));
  };
  const side = (p) => {
    const node = el("div", undefined, "side " + (isRight(p) ? "is-right" : "is-wrong"));
    node.append(el("h3", data.runs[p.run].label));
    node.append(el("div", `${p.verdict} · answer ${text(p.answer) || "–"} · ${p.tokens} tokens · ${p.finish}`, "dim"));
    block(node, "plan", text(p.plan));
    block(node, "answer as graded", text(p.reply));
    return node;
  };
  const predictionDetail = (p) => {
    const [benchmark, id, gold, prompt, difficulty] = data.problems[p.problem];
    const parts = [el("h3", `${data.benchmarks[benchmark]} · ${text(id)}` + (text(difficulty) ? ` · difficulty ${text(difficulty)}` : ""))];
    const head = el("div");
    block(head, "problem", text(prompt));
    block(head, "gold answer", text(gold));
    const chips = el("div", undefined, "chips");
    for (const other of byProblem.get(p.problem)) {
      if (other.sample !== p.sample || other.run === p.run) continue;
      const chip = el("button", `${isRight(other) ? "✓" : "✗"} ${data.runs[other.run].label}`, isRight(other) ? "right" : "wrong");
      chip.title = "show beside it";
      chip.onclick = () => { state.b = String(other.run); drawFilters(); detail(); save(); };
      chips.append(chip);
    }
    const sides = el("div", undefined, "sides");
    sides.append(side(p));
    const against = state.b === "" ? undefined : bySlot.get(slot(Number(state.b), p.problem, p.sample));
    if (against && against !== p) sides.append(side(against));
    if (chips.children.length) head.append(el("h4", "the other runs on this problem: click to set one beside"));
    parts.push(head, chips, sides);
    return parts;
  };
  const trajectoryDetail = (t) => {
    const parts = [el("h3", `${data.corpora[t.corpus]} · ${text(t.id)}`)];
    const head = el("div");
    block(head, "problem", text(t.problem));
    block(head, "gold answer", text(t.gold));
    block(head, "constraints", text(t.constraints));
    const sides = el("div", undefined, "sides");
    for (const other of byTrainingProblem.get(`${t.corpus}/${t.id}`)) {
      const node = el("div", undefined, "side " + (isRight(other) ? "is-right" : "is-wrong"));
      node.append(el("h3", `plan ${other.candidate}${other === t ? " (the line on the left)" : ""}: score ${other.score === null ? "– " + other.status : other.score}`));
      node.append(el("div", `${other.verdict} · answer ${text(other.answer) || "–"}`, "dim"));
      block(node, "plan", text(other.plan));
      block(node, "verifier", text(other.scoreText));
      block(node, "execution", text(other.execution));
      sides.append(node);
    }
    parts.push(head, sides);
    return parts;
  };
  const detail = () => {
    const row = rows[Number(state.at)];
    if (!row) { $("detail").replaceChildren(el("p", "Nothing matches these filters.", "dim")); return; }
    $("detail").replaceChildren(...(state.tab === "predictions" ? predictionDetail(row) : trajectoryDetail(row)));
    $("detail").scrollTop = 0;
  };

  // ---- configuration of two jobs
  const drawConfiguration = () => {
    const keys = data.settings;
    const a = data.jobs[Number(state.ca) || 0], b = data.jobs[Number(state.cb === "" ? data.jobs.length - 1 : state.cb)];
    if (!a || !b) return;
    const table = el("table");
    const head = el("tr");
    head.append(el("th", "key"), el("th", a.label), el("th", b.label));
    table.append(head);
    let differing = 0;
    keys.forEach((key, i) => {
      const left = text(a.values[i]), right = text(b.values[i]);
      if (left === right) return;
      differing++;
      const tr = el("tr");
      tr.append(el("td", key), el("td", left || "–"), el("td", right || "–"));
      table.append(tr);
    });
    $("config-table").replaceChildren(differing ? table : el("p", "They are configured alike.", "dim"));
  };
  for (const [id, key, fallback] of [["config-a", "ca", 0], ["config-b", "cb", data.jobs.length - 1]]) {
    $(id).append(...options(data.jobs.map((job, i) => [String(i), job.label])));
    $(id).value = state[key] === "" ? String(fallback) : state[key];
    $(id).onchange = () => { state[key] = $(id).value; drawConfiguration(); save(); };
  }
  drawConfiguration();

  // ---- events
  const open = (tab) => {
    state.tab = tab;
    for (const name of ["predictions", "trajectories"]) $("tab-" + name).classList.toggle("on", name === tab);
    drawFilters();
    apply();
  };
  for (const name of ["predictions", "trajectories"]) {
    $("tab-" + name).onclick = () => { state.verdict = ""; state.at = "0"; open(name); };
  }
  let isPainting = false;
  $("list").onscroll = () => {
    if (isPainting) return;
    isPainting = true;
    requestAnimationFrame(() => { isPainting = false; paint(); });
  };
  $("list").onclick = (event) => {
    const item = event.target.closest(".item");
    if (item) select(Number(item.dataset.index), false);
  };
  $("list").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
    if (!step || !rows.length) return;
    event.preventDefault();
    select(Math.max(0, Math.min(rows.length - 1, Number(state.at) + step)), true);
  };
  open(state.tab === "trajectories" ? "trajectories" : "predictions");
  document.body.dataset.ready = "true";
})().catch((error) => {
  const note = document.createElement("p");
  note.className = "warning";
  note.textContent = `The browser of predictions could not start (${error}). It needs a browser of 2023 or later.`;
  document.getElementById("browser").prepend(note);
});
