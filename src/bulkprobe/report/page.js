(function () {
  "use strict";
  const root = document.documentElement;
  const all = (selector, inside) => Array.from((inside || document).querySelectorAll(selector));
  const announce = (text) => { document.getElementById("said").textContent = text; };
  root.classList.add("js");

  // Sorting: a button in every head; missing values stay last.
  function sortBy(table, heads, column) {
    const head = heads[column], numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const down = now === "none" ? numeric : now === "ascending"; // numbers: largest first
    const order = down ? "descending" : "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
    const key = (row) => row.children[column].getAttribute("data-sort");
    const rows = Array.from(table.tBodies[0].rows).sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") { return (x === "") - (y === ""); }
      const difference = numeric ? parseFloat(x) - parseFloat(y) : x.localeCompare(y);
      return down ? -difference : difference;
    });
    table.tBodies[0].append(...rows);
    announce(table.caption.textContent + ": sorted by " + head.textContent + ", " + order);
  }
  all("table").forEach((table) => {
    const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => sortBy(table, heads, column));
    });
  });

  // Filter: a row shows when its encoder is chosen and the table's own text, if any, is found in it.
  const bar = document.getElementById("bar"), words = bar.querySelector("input[type=search]");
  const status = bar.querySelector(".status");
  const chips = all("input[name=encoder]", bar), kinds = all("input[name=kind]", bar);
  const known = new Set(chips.map((chip) => chip.value)), finders = [];
  let shown = new Set(known);
  const split = (text) => text.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const hidden = (one) => known.has(one.dataset.encoder) && !shown.has(one.dataset.encoder);
  function showRows(table) {
    const wanted = split(table.dataset.find || "");
    Array.from(table.tBodies[0].rows).forEach((row) => {
      const text = wanted.length ? row.textContent.toLowerCase() : "";
      row.hidden = hidden(row) || !wanted.every((word) => text.includes(word));
    });
  }
  function applyFilter() {
    const chosen = new Set(kinds.filter((kind) => kind.checked).map((kind) => kind.value)), wanted = split(words.value);
    shown = new Set();
    chips.forEach((chip) => {
      const name = chip.value.toLowerCase();
      const named = !wanted.length || wanted.some((word) => name.includes(word));
      const on = chip.checked && chosen.has(chip.dataset.kind) && named;
      if (on) { shown.add(chip.value); }
      chip.parentElement.classList.toggle("off", !on);
    });
    all("table").forEach(showRows);
    all(".mark[data-encoder]").forEach((one) => one.classList.toggle("off", hidden(one)));
    const some = shown.size < known.size;
    status.textContent = "showing " + shown.size + " of " + known.size + " encoders";
    bar.classList.toggle("some", some);
    status.classList.toggle("some", some);
    finders.forEach((count) => count());
  }
  function resetFilter() {
    [...chips, ...kinds].forEach((box) => { box.checked = true; });
    words.value = "";
    all(".find input").forEach((input) => { input.value = ""; });
    all("table").forEach((table) => { delete table.dataset.find; });
    applyFilter();
  }
  all("[data-long]").forEach((box) => {
    const [label, input, found] = ["label", "input", "output"].map((name) => document.createElement(name));
    const table = box.querySelector("table");
    input.type = "search";
    input.autocomplete = "off";
    label.className = "find";
    label.append("Rows that hold", input);
    found.className = "found";
    const count = () => {
      const rows = Array.from(table.tBodies[0].rows), left = rows.filter((row) => !row.hidden).length;
      found.textContent = left < rows.length ? left + " of " + rows.length + " rows" : "";
    };
    input.addEventListener("input", () => { table.dataset.find = input.value; showRows(table); count(); });
    finders.push(count);
    box.prepend(label, found);
  });
  [...chips, ...kinds].forEach((box) => box.addEventListener("change", applyFilter));
  words.addEventListener("input", applyFilter);
  bar.querySelector(".reset").addEventListener("click", resetFilter);
  bar.hidden = false;
  resetFilter(); // browsers restore checked boxes on reload
  new ResizeObserver(() => { // what is jumped to or focused must not lie below the bar
    const tall = bar.offsetHeight > window.innerHeight / 4;
    bar.style.position = tall ? "static" : "";
    root.style.scrollPaddingTop = tall ? "1rem" : bar.offsetHeight + 16 + "px";
  }).observe(bar);

  // Values of marks: on hover, touch and focus. One mark a figure is a tab stop, arrow keys go on from there.
  const tip = document.getElementById("tip");
  let leaving = 0;
  function showTip(mark, x, y) {
    clearTimeout(leaving);
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), room = 8;
    const left = Math.min(Math.max(room, x - box.width / 2), root.clientWidth - box.width - room);
    const above = y - box.height - 12;
    tip.style.left = left + "px";
    tip.style.top = (above > room ? above : y + 16) + "px";
  }
  const hideTip = () => { clearTimeout(leaving); tip.hidden = true; };
  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.left + box.width / 2, box.top];
  };
  function hideSoon() { // there is time to move onto the tooltip; a focused mark has it back
    const focused = document.activeElement.closest(".mark.tip");
    clearTimeout(leaving);
    leaving = setTimeout(() => (focused && !tip.hidden ? showTip(focused, ...middle(focused)) : hideTip()), 150);
  }
  tip.addEventListener("pointerenter", () => clearTimeout(leaving));
  tip.addEventListener("pointerleave", hideSoon);
  function widen(mark) { // a thin line is hard to hit
    all("path", mark).filter((path) => path.style.fill === "none").forEach((path) => {
      const wide = path.cloneNode();
      wide.removeAttribute("id");
      Object.assign(wide.style, { stroke: "transparent", strokeWidth: "8", pointerEvents: "stroke" });
      mark.append(wide);
    });
  }
  function move(marks, from, key) {
    const on = marks.filter((mark) => !mark.classList.contains("off")), place = on.indexOf(from), last = on.length - 1;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[key];
    if (step === undefined || last < 0) { return false; }
    const to = on[Math.min(Math.max(place + step, 0), last)];
    marks.forEach((mark) => mark.setAttribute("tabindex", mark === to ? "0" : "-1"));
    to.focus();
    return true;
  }
  all(".drawing").forEach((drawing) => {
    const svg = drawing.querySelector("svg"), stops = new Map();
    all(".mark.tip", svg).forEach((mark) => {
      const title = mark.querySelector("title"), text = title.textContent;
      title.remove(); // two tooltips are one too many
      mark.setAttribute("aria-label", text);
      mark.setAttribute("role", "img");
      stops.set(text, mark); // an interval and its point say the same: one stop
      widen(mark);
      mark.addEventListener("pointermove", (event) => showTip(mark, event.clientX, event.clientY));
      mark.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") { hideSoon(); } });
      mark.addEventListener("click", (event) => showTip(mark, event.clientX, event.clientY));
      mark.addEventListener("focus", () => showTip(mark, ...middle(mark)));
      mark.addEventListener("blur", hideTip);
    });
    const marks = Array.from(stops.values());
    if (!marks.length) { return; }
    svg.setAttribute("role", "group"); // a picture would hide its marks from screen readers
    drawing.removeAttribute("tabindex"); // its marks are focused, and scroll into view, in its place
    marks.forEach((mark, place) => mark.setAttribute("tabindex", place ? "-1" : "0"));
    drawing.addEventListener("keydown", (event) => {
      if (marks.includes(event.target) && move(marks, event.target, event.key)) { event.preventDefault(); }
    });
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hideTip(); } });
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".mark.tip, #tip")) { hideTip(); } });
  document.addEventListener("scroll", () => {
    const focused = document.activeElement.closest(".mark.tip");
    if (tip.hidden) { return; }
    if (focused) { showTip(focused, ...middle(focused)); } else { hideTip(); }
  }, true);

  // Theme: what the system says until the reader says otherwise.
  const theme = bar.querySelector(".theme"), system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { theme.textContent = isDark() ? "Light colours" : "Dark colours"; };
  function remembered(value) { // storage may be forbidden, above all for files
    try {
      if (value) { localStorage.setItem("bulkprobe-theme", value); }
      return localStorage.getItem("bulkprobe-theme");
    } catch (error) { return null; }
  }
  if (["light", "dark"].includes(remembered())) { root.dataset.theme = remembered(); }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();

  // Copying: <button data-copy="#id">.
  function select(source) {
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
  all("button[data-copy]").forEach((button) => {
    const name = button.textContent;
    button.addEventListener("click", async () => {
      const source = document.querySelector(button.dataset.copy);
      let done = false;
      try {
        await navigator.clipboard.writeText(source.textContent);
        done = true;
      } catch (error) { // not a secure context, or not allowed
        select(source);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      announce(done ? "copied" : "selected, press Ctrl and C");
      setTimeout(() => { button.textContent = name; }, 2000);
    });
  });

  // Printing opens what is folded.
  let closed = [];
  function open() {
    all("main details:not([open])").forEach((one) => { closed.push(one); one.open = true; });
  }
  function close() {
    closed.forEach((one) => { one.open = false; });
    closed = [];
  }
  window.addEventListener("beforeprint", open);
  window.addEventListener("afterprint", close);
  window.matchMedia("print").addEventListener("change", (event) => (event.matches ? open() : close()));
}());
