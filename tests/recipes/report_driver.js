// Uses the page of a dataset as a reader would, and tells what it saw; see test_report_page.py.
const frame = document.querySelector("iframe"), told = {};
const luminance = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {
  const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
const colour = (text) => text.match(/[\d.]+/g).map(Number);
frame.onload = () => {
  const w = frame.contentWindow, d = frame.contentDocument, style = (e) => w.getComputedStyle(e);
  const one = (id) => d.getElementById(id);
  const visible = () => [...one("rows").tBodies[0].rows].filter((row) => !row.hidden);
  const type = (id, value) => { one(id).value = value; one(id).dispatchEvent(new w.Event("input")); };
  told.fetched = w.performance.getEntriesByType("resource").length;
  told.scripts = d.scripts.length;
  const strange = "img, iframe, object, embed, base, link, form, video, a:not([href^='#'])";
  told.strangers = d.querySelectorAll(strange).length;
  const names = [...d.querySelectorAll("*")].flatMap((e) => e.getAttributeNames());
  told.handlers = names.filter((name) => name.startsWith("on")).length;
  told.headings = [...d.querySelectorAll("h1")].map((e) => e.textContent);
  told.counts = ["rows-in", "rows-out", "rows-rejected"].map((id) => one(id).textContent);
  told.first = one("shown").textContent;
  type("search", "LANTERN  blue");
  told.found = visible().map((row) => row.dataset.row);
  told.said = one("shown").textContent;
  type("search", "no row says this");
  told.none = [visible().length, one("none").hidden];
  one("clear").click(); told.cleared = visible().length;
  type("split", "test");
  told.test = visible().map((row) => row.dataset.split);
  one("clear").click(); type("task", one("task").options[1].value);
  told.task = visible().length; one("clear").click();
  const words = () => visible().map((row) => +row.dataset.words);
  const sort = d.querySelector("button[data-key=words]");
  sort.click(); told.up = words(); sort.click(); told.down = words();
  told.sorted = sort.parentElement.getAttribute("aria-sort");
  for (const e of d.querySelectorAll("details")) e.open = true;
  told.text = d.querySelector(".turn p").textContent;
  const arabic = [...d.querySelectorAll(".turn p")].filter((e) => e.textContent.startsWith("\u0645"));
  told.dir = arabic.map((e) => style(e).direction);
  let worst = [99, ""];
  for (const e of d.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    if (e.closest("svg") && !(e.tagName === "text")) continue;
    let back = e;
    while (back !== d.documentElement && !(colour(style(back).backgroundColor)[3] ?? 1)) back = back.parentElement;
    const ground = colour(style(back === d.documentElement ? d.body : back).backgroundColor);
    const ink = colour(e.tagName === "text" ? style(e).fill : style(e).color);
    const value = contrast(ink.slice(0, 3), ground.slice(0, 3));
    if (value < worst[0]) worst = [value, e.outerHTML.slice(0, 90)];
  }
  for (const e of d.querySelectorAll(".wheel path")) {
    const value = contrast(colour(style(d.querySelector(".wheel text")).fill), colour(style(e).fill));
    if (value < worst[0]) worst = [value, e.outerHTML.slice(0, 90)];
  }
  told.worst = worst;
  told.paper = style(d.body).backgroundColor;
  told.keys = [...d.querySelectorAll(".wide")].every((e) => e.tabIndex === 0);
  told.labelled = [...d.querySelectorAll("svg[role=img]")].every((e) => e.getAttribute("aria-labelledby").split(" ")
    .every((id) => one(id) && one(id).textContent && d.querySelectorAll(`[id="${id}"]`).length === 1));
  told.charts = d.querySelectorAll("svg[role=img]").length;
  told.beyond = {};
  for (const width of [320, 360, 800, 1200]) {
    frame.style.width = width + "px";
    const far = (e) => Math.max(e.getBoundingClientRect().right, e.getBoundingClientRect().left + e.scrollWidth);
    const out = (e) => far(e) > width + 1 && !e.closest(".wide");
    const found = d.documentElement.scrollWidth > width ? [...d.querySelectorAll("body *")].filter(out) : [];
    told.beyond[width] = found.map((e) => e.outerHTML.slice(0, 120));
    if (d.documentElement.scrollWidth > width && !found.length) told.beyond[width].push("something");
  }
  frame.style.width = "390px"; // a phone: what can be read without scrolling to the side
  const seen = (e) => e.getBoundingClientRect().left >= 0 && e.getBoundingClientRect().right <= 390;
  told.phone = {
    wheel: [...d.querySelectorAll(".wheel svg")].map(seen),
    rows: visible().map((row) => seen(row) && row.querySelector("summary").getBoundingClientRect().width),
  };
  document.body.dataset.told = JSON.stringify(told);
};
