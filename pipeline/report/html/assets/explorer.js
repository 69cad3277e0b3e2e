// The explorer of predictions: filters, texts with masked positions, and what every model predicts at one of them.
// Everything from the data is set as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (identifier) => document.getElementById(identifier);
  const search = at("search"), source = at("source"), show = at("show"), fusionChoice = at("fusion"), list = at("examples");

  function unpack(text, Type) {
    return new Type(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }
  const start = unpack(data.start, Uint32Array), end = unpack(data.end, Uint32Array);
  const truth = unpack(data.truth, Uint32Array), position = unpack(data.position, Uint32Array);
  const K = data.shown;
  for (const model of data.models) {
    model.tokens = unpack(model.tokens, Uint32Array);
    model.p = unpack(model.p, Uint16Array);
    model.truth = unpack(model.truth, Uint16Array);
    for (const name in model.weights) model.weights[name] = unpack(model.weights[name], Uint16Array);
  }
  const kind = (name) => data.models.filter((model) => model.kind === name);
  const teachers = kind("teacher"), fusions = kind("fusion"), students = kind("student");
  const examples = data.examples.map((example, number) => ({
    ...example,
    ...data.texts[example.text],
    searched: `${data.texts[example.text].document}\n${data.texts[example.text].text}`.toLowerCase(),
    last: number + 1 < data.examples.length ? data.examples[number + 1].first : truth.length,
  }));
  const copies = new Set(examples.map((example) => example.copy)).size;

  const first = (model, q) => model.tokens[K * q];
  const right = (model, q) => model !== undefined && first(model, q) === truth[q];
  const share = (value) => (value === data.unknown ? "–" : (value / data.steps).toFixed(3));
  const fusion = () => fusions.find((model) => model.name === fusionChoice.value);
  const of = (chosen) => (chosen && chosen.weights ? teachers.filter((teacher) => teacher.name in chosen.weights) : teachers);
  const best = (chosen) => chosen && teachers.find((teacher) => teacher.name === chosen.best);

  function state(q) {
    const chosen = fusion(), whole = right(chosen, q), alone = right(best(chosen), q);
    return whole ? (alone ? "both" : "gain") : alone ? "loss" : "none";
  }
  const STATES = {
    both: "fusion and best teacher right", gain: "fusion right, best teacher wrong",
    loss: "fusion wrong, best teacher right", none: "both wrong",
  };
  function shown(q) {
    if (show.value === "") return true;
    if (show.value !== "disagree") return state(q) === show.value;
    const answers = of(fusion()).map((teacher) => first(teacher, q)).filter((token) => token > 0);
    return new Set(answers).size > 1;
  }

  let found = [];    // positions that pass the filters, in the order of the page
  let inside = new Set();
  let chosen = -1;

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function filter() {
    const words = search.value.trim().toLowerCase();
    found = [];
    list.replaceChildren();
    let texts = 0;
    examples.forEach((example, number) => {
      if (source.value && example.source !== source.value) return;
      if (words && !example.searched.includes(words)) return;
      const before = found.length;
      for (let q = example.first; q < example.last; q++) if (shown(q)) found.push(q);
      if (found.length === before) return;
      texts += 1;
      const copy = copies > 1 ? ` · copy ${example.copy + 1}` : "";
      const option = element("option", `${example.document}${copy} (${found.length - before})`);
      option.value = number;
      list.append(option);
    });
    inside = new Set(found);
    at("count").textContent =
      `${found.length.toLocaleString("en")} of ${truth.length.toLocaleString("en")} masked positions, ` +
      `in ${texts} of ${examples.length} texts${copies > 1 ? ", one for each mask copy" : ""}.` +
      (best(fusion()) ? ` Best teacher of ${fusion().name}, by its NLL: ${fusion().best}.` : "");
    choose(inside.has(chosen) ? chosen : found.length ? found[0] : -1);
  }

  function exampleOf(q) {
    return examples.findIndex((example) => q >= example.first && q < example.last);
  }

  function choose(q, focus = false) {
    chosen = q;
    at("previous").disabled = at("next").disabled = found.length < 2;
    if (q < 0) {
      at("about").textContent = "No masked position passes the filters.";
      at("text").replaceChildren();
      at("answers").replaceChildren();
      return;
    }
    const number = exampleOf(q), example = examples[number];
    list.value = String(number);
    at("about").textContent = `${example.document} · source ${example.source}` + (copies > 1 ? ` · mask copy ${example.copy + 1}` : "");
    drawText(example, focus);
    drawAnswers(q);
    if (focus) history.replaceState(null, "", `#position-${position[q]}`);
  }

  function drawText(example, focus) {
    const letters = Array.from(example.text);  // offsets count characters, not UTF-16 units
    const place = at("text");
    place.replaceChildren();
    let done = 0;
    for (let q = example.first; q < example.last; q++) {
      place.append(letters.slice(done, start[q]).join(""));
      const button = element("button", letters.slice(start[q], end[q]).join(""), `mark ${inside.has(q) ? state(q) : "other"}`);
      button.type = "button";
      button.setAttribute("aria-pressed", String(q === chosen));
      button.setAttribute("aria-label", `masked: ${button.textContent}; ${STATES[state(q)]}`);
      button.title = STATES[state(q)];
      button.addEventListener("click", () => choose(q, true));
      place.append(button);
      if (q === chosen && focus) button.focus();
      done = end[q];
    }
    place.append(letters.slice(done).join(""));
    if (focus) place.querySelector("[aria-pressed=true]").focus();
  }

  function drawAnswers(q) {
    const table = element("table"), head = element("thead"), body = element("tbody"), titles = element("tr");
    table.append(element("caption", `Predictions where the true token is ${data.tokens[truth[q]]}`), head, body);
    head.append(titles);
    for (const title of ["model", "weight", "P(true)", ...Array.from({ length: K }, (_, k) => `token ${k + 1}`)]) {
      titles.append(element("th", title));
      titles.lastChild.scope = "col";
    }
    const current = fusion();
    const shownFusions = current ? [current] : [];
    for (const model of [...of(current), ...shownFusions, ...students]) {
      const row = element("tr"), name = element("th", model.name);
      name.scope = "row";
      name.append(" ", element("span", model.kind, "kind"));
      row.append(name);
      const weight = current && current.weights ? current.weights[model.name] : undefined;
      row.append(element("td", model.kind === "teacher" && weight ? share(weight[q]) : ""));
      row.append(element("td", share(model.truth[q])));
      for (let k = 0; k < K; k++) row.append(cell(model, q, k));
      body.append(row);
    }
    const spelled = element("p");
    spelled.append("True token: ", element("strong", data.tokens[truth[q]]));
    at("answers").replaceChildren(spelled, table);
  }

  function cell(model, q, k) {
    const token = model.tokens[K * q + k], p = model.p[K * q + k];
    const made = element("td", token ? data.tokens[token] : k === 0 ? "no prediction" : "", "token");
    if (!token) return made;
    made.append(" ", element("span", share(p), "p"));
    const bar = element("span", undefined, "bar");
    bar.style.width = `${(100 * p) / data.steps}%`;
    made.append(bar);
    if (token === truth[q]) {
      made.classList.add("right");
      made.title = "the true token";
      made.prepend("✓ ");
    }
    return made;
  }

  function walk(by) {
    const next = (found.indexOf(chosen) + by + found.length) % found.length;
    choose(found[next], false);
    history.replaceState(null, "", `#position-${position[chosen]}`);
  }

  for (const name of [...new Set(data.texts.map((text) => text.source))].sort()) source.append(new Option(name, name));
  for (const model of fusions) fusionChoice.append(new Option(model.name, model.name));
  fusionChoice.parentElement.hidden = fusions.length < 2;
  const asked = /^#position-(\d+)$/.exec(location.hash);
  if (asked) chosen = position.indexOf(Number(asked[1]));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", filter);
  for (const choice of [source, show, fusionChoice]) choice.addEventListener("change", filter);
  list.addEventListener("change", () => choose(found.find((q) => exampleOf(q) === Number(list.value))));
  at("previous").addEventListener("click", () => walk(-1));
  at("next").addEventListener("click", () => walk(1));
  filter();
  if (asked) at("explorer").scrollIntoView();
})();
