// What the reader has done, kept in this browser and nowhere else: boxes to tick on lesson pages, marks in the sidebar and
// on the home page's map, and a page that shows, saves and loads it all. Without this script the pages are the same, plain.
//
// Stored under KEY, in the form of the autograder's own file, so that either can be loaded here:
//   {"passed": {exercise id: ISO time}, "done": {lesson id: ISO time}}
(() => {
  "use strict";
  const KEY = "groundup.progress";
  const lessons = window.groundupLessons; // lesson id: {title, page, notebook, exercises: [exercise ids]}
  const site = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
  const here = location.pathname;
  const GROUPS = ["passed", "done"];

  function read() {
    try {
      return checked(JSON.parse(localStorage.getItem(KEY) ?? "{}"));
    } catch {
      return { passed: {}, done: {} };
    }
  }

  function write(state) {
    localStorage.setItem(KEY, JSON.stringify(state));
    show();
  }

  // The part of `value` that is a record; what else a file holds is left aside. Throws if there is none in it.
  function checked(value) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new TypeError("not a record");
    const state = {};
    for (const group of GROUPS) {
      const entries = value[group] ?? {};
      if (typeof entries !== "object" || Array.isArray(entries)) throw new TypeError("not a record");
      state[group] = Object.fromEntries(Object.entries(entries).filter(([, when]) => typeof when === "string"));
    }
    return state;
  }

  // Both records in one: nothing is lost, and the earlier time stays.
  function merged(one, other) {
    const state = {};
    for (const group of GROUPS) {
      state[group] = { ...one[group] };
      for (const [id, when] of Object.entries(other[group])) {
        if (!(id in state[group]) || when < state[group][id]) state[group][id] = when;
      }
    }
    return state;
  }

  const passedOf = (state, id) => lessons[id].exercises.filter((exercise) => exercise in state.passed).length;

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function box(group, id, words, className) {
    const input = element("input", { type: "checkbox" });
    input.dataset.group = group;
    input.dataset.id = id;
    input.addEventListener("change", () => {
      const state = read();
      if (input.checked) state[group][id] = new Date().toISOString();
      else delete state[group][id];
      write(state);
    });
    return element("label", { className }, input, ` ${words}`);
  }

  const pathOf = (id) => new URL(lessons[id].page, site).pathname;
  const current = Object.keys(lessons).find((id) => pathOf(id) === here);

  function build() {
    for (const line of document.querySelectorAll(".effort[data-exercise]")) {
      line.append(" ", box("passed", line.dataset.exercise, "done", "tick"));
    }
    if (current) {
      const line = element("p", { className: "tick-lesson" }, box("done", current, "I have finished this lesson", "tick"));
      line.append(" ", element("span", { className: "tick-count" }));
      document.querySelector("article.bd-article > section")?.append(line);
    }
    const page = document.querySelector("#progress-page");
    if (page) buildPage(page);
  }

  // The links of the sidebar and of the map, each with a mark of its own.
  function links() {
    const found = [];
    for (const link of document.querySelectorAll(".bd-links a.reference, .part .ready a")) {
      const path = new URL(link.getAttribute("href"), location.href).pathname;
      const id = Object.keys(lessons).find((each) => pathOf(each) === path);
      if (id) found.push([link, id]);
    }
    return found;
  }

  function show() {
    const state = read();
    for (const input of document.querySelectorAll("input[data-group]")) {
      input.checked = input.dataset.id in state[input.dataset.group];
    }
    for (const [link, id] of links()) {
      link.querySelector(".progress-mark")?.remove();
      const [count, all] = [passedOf(state, id), lessons[id].exercises.length];
      if (id in state.done) link.append(mark("✓", "finished"));
      else if (count) link.append(mark(`${count}/${all}`, `${count} of ${all} exercises done`));
    }
    for (const place of document.querySelectorAll(".tick-count")) {
      place.textContent = `${passedOf(state, current)} of ${lessons[current].exercises.length} exercises done.`;
    }
    showPage(state);
  }

  function mark(text, words) {
    const shown = element("span", { ariaHidden: "true" }, text);
    return element("span", { className: "progress-mark" }, shown, element("span", { className: "visually-hidden" }, ` (${words})`));
  }

  // ---- the page "Your progress"

  function say(words) {
    document.querySelector("#progress-said").textContent = words;
  }

  function buildPage(page) {
    const file = page.querySelector("#progress-file");
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      file.value = "";
      if (!chosen) return;
      try {
        const before = read();
        const state = merged(before, checked(JSON.parse(await chosen.text())));
        const added = GROUPS.map((group) => Object.keys(state[group]).length - Object.keys(before[group]).length);
        write(state);
        say(`Loaded ${chosen.name}. New exercises: ${added[0]}; new lessons: ${added[1]}.`);
      } catch {
        say(`${chosen.name} is not a record of progress; nothing was changed.`);
      }
    });
    const button = (name, act) => page.querySelector(`#progress-${name}`).addEventListener("click", act);
    button("save", () => {
      const text = new Blob([`${JSON.stringify(read(), null, 1)}\n`], { type: "application/json" });
      const link = element("a", { href: URL.createObjectURL(text), download: "groundup-progress.json" });
      link.click();
      URL.revokeObjectURL(link.href);
    });
    button("load", () => file.click());
    button("forget", () => {
      if (!confirm("Forget all marks in this browser? A saved file is the only way back.")) return;
      write({ passed: {}, done: {} });
      say("All marks are gone.");
    });
  }

  function showPage(state) {
    for (const item of document.querySelectorAll("#progress-list li")) {
      const id = item.dataset.lesson;
      const [count, all] = [passedOf(state, id), lessons[id].exercises.length];
      item.querySelector("progress").value = count;
      item.querySelector("span").textContent = `${count} of ${all} exercises${id in state.done ? ", finished" : ""}`;
    }
  }

  // ---- served by `make start`: the autograder's record is at hand, and JupyterLab may be

  async function meetLocalServer() {
    const local = document.cookie.match(/(?:^|; )groundup_local=(\w+)/)?.[1];
    if (!local) return;
    if (local === "lab" && current) {
      const open = new URL(`local/lab/${lessons[current].notebook}`, site).href;
      const button = element("a", { className: "button", href: open, target: "groundup-lab" }, "Open here, in JupyterLab");
      document.querySelector(".lesson-actions")?.append(" ", button);
    }
    const answer = await fetch(new URL("local/progress.json", site));
    if (!answer.ok) return; // the cookie is another server's: cookies do not tell the ports of one machine apart
    const state = read();
    const both = merged(state, checked(await answer.json()));
    if (JSON.stringify(both) !== JSON.stringify(state)) write(both);
  }

  try {
    localStorage.getItem(KEY); // a browser may refuse
  } catch {
    document.querySelector("#progress-page")?.replaceChildren("This browser keeps nothing for this site, so there is no progress to show.");
    return;
  }
  build();
  show();
  addEventListener("storage", (event) => event.key === KEY && show());
  meetLocalServer();
})();
