// The table of stories: search, states, order, pages. The rows come from data/N.js, which call
// storyloom.stories; everything is put into the page as text, never as markup.
"use strict";

const storyloom = (() => {
  const PAGE = 50;
  const STATES = ["done", "running", "interrupted", "pending", "failed", "quarantined", "changed"];
  const WORDS = { quarantined: "in quarantine", changed: "changed input" };
  const own = document.currentScript.dataset;
  const rows = [];
  let missing = Number(own.parts);
  let found = [];
  const view = { words: "", state: "", key: "place", down: false, page: 0 };

  const byId = (id) => document.getElementById(id);

  // One row of a data file, by name.
  function unpack(values, place) {
    const [id, name, state, shots, done, film, work, failed, pictures, reason, tenant] = values;
    const row = { place, id, name: name || id, named: !!name, state, shots, done, film, work, failed, pictures };
    row.reason = reason || "";
    row.tenant = tenant || "";
    row.text = [row.name, id, row.tenant, row.reason].join("\n").toLowerCase();
    return row;
  }

  const ORDER = {
    place: (row) => row.place,
    name: (row) => row.name.toLowerCase(),
    state: (row) => STATES.indexOf(row.state),
    done: (row) => row.done,
    film: (row) => row.film,
    work: (row) => row.work,
    failed: (row) => row.failed,
  };

  function choose() {
    const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => (!view.state || row.state === view.state) && words.every((word) => row.text.includes(word));
    const of = ORDER[view.key];
    const way = view.down ? -1 : 1;
    found = rows.filter(fits);
    found.sort((one, two) => {
      const [a, b] = [of(one), of(two)];
      return (a < b ? -way : a > b ? way : 0) || one.place - two.place;
    });
  }

  const film = (seconds) => {
    const whole = Math.round(seconds);
    const two = (value) => String(value).padStart(2, "0");
    const minutes = Math.floor(whole / 60) % 60;
    const hours = Math.floor(whole / 3600);
    return hours ? `${hours.toLocaleString("en")}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  };

  const time = (seconds) => {
    const whole = Math.round(seconds);
    if (seconds < 9.95) return seconds ? `${seconds.toFixed(1)} s` : "0 s";
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    const minutes = Math.round(seconds / 60);
    return `${Math.floor(minutes / 60).toLocaleString("en")} h ${minutes % 60} min`;
  };

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // As the macro `row` of parts.html draws it.
  function draw(row) {
    const line = element("tr");
    const head = element("th");
    head.scope = "row";
    const who = element("div", "who");
    const pictures = element("div", "pictures");
    if (row.pictures) {
      const picture = element("img");
      picture.loading = "lazy";
      picture.decoding = "async";
      picture.alt = "";
      picture.src = `pictures/${row.id}/row.jpg`;
      pictures.append(picture);
    }
    const names = element("div", "names");
    const link = element("a", "", row.name);
    link.href = `stories/${row.id}.html`;
    names.append(link);
    const small = [row.named ? row.id : "", row.tenant].filter(Boolean);
    names.append(element("span", "id", small.join(" · ")));
    if (row.reason) names.append(element("span", "reason", row.reason));
    who.append(pictures, names);
    head.append(who);
    const state = element("td");
    const pill = element("span", `state ${row.state}`);
    const sign = element("span", "sign");
    sign.setAttribute("aria-hidden", "true");
    pill.append(sign, WORDS[row.state] || row.state);
    state.append(pill);
    line.append(
      element("td", "number", row.place),
      head,
      state,
      element("td", "number", `${row.done} / ${row.shots}`),
      element("td", "number wide", film(row.film)),
      element("td", "number wide", time(row.work)),
      element("td", "number wide", row.failed),
    );
    return line;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    view.page = Math.min(Math.max(0, view.page), pages - 1);
    const first = view.page * PAGE;
    byId("rows").replaceChildren(...found.slice(first, first + PAGE).map(draw));
    const count = found.length.toLocaleString("en");
    byId("found").textContent = found.length === 1 ? "1 story" : `${found.length ? count : "No"} stories`;
    byId("leaf").hidden = pages === 1;
    byId("leaf-place").textContent = `page ${(view.page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
    byId("back").disabled = view.page === 0;
    byId("on").disabled = view.page === pages - 1;
    for (const header of document.querySelectorAll("th[data-key]")) {
      if (header.dataset.key === view.key) {
        header.setAttribute("aria-sort", view.down ? "descending" : "ascending");
      } else {
        header.removeAttribute("aria-sort");
      }
    }
  }

  // The choice is kept in the address, so that "back" from a story comes to the same place.
  function remember() {
    const kept = new URLSearchParams();
    if (view.words) kept.set("search", view.words);
    if (view.state) kept.set("state", view.state);
    if (view.key !== "place" || view.down) kept.set("order", (view.down ? "-" : "") + view.key);
    if (view.page) kept.set("page", view.page + 1);
    const text = kept.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function recall() {
    const kept = new URLSearchParams(location.hash.slice(1));
    view.words = kept.get("search") || "";
    view.state = STATES.includes(kept.get("state")) ? kept.get("state") : "";
    const order = kept.get("order") || "place";
    view.down = order.startsWith("-");
    const key = order.replace("-", "");
    view.key = Object.hasOwn(ORDER, key) ? key : "place";
    view.page = (Number.parseInt(kept.get("page"), 10) || 1) - 1;
    byId("words").value = view.words;
    for (const radio of document.querySelectorAll("[name=state]")) radio.checked = radio.value === view.state;
  }

  function change(what) {
    Object.assign(view, { page: 0 }, what);
    choose();
    show();
    remember();
  }

  function turn(pages) {
    view.page += pages;
    show();
    remember();
    byId("stories").scrollIntoView();
    // A button that has become disabled would lose the focus to nowhere.
    if (document.activeElement === document.body || document.activeElement.disabled) byId("stories").focus();
  }

  function begin() {
    for (const header of document.querySelectorAll("th[data-key]")) {
      const button = element("button", "", header.textContent);
      button.type = "button";
      const key = header.dataset.key;
      button.addEventListener("click", () => change({ key, down: view.key === key && !view.down }));
      header.replaceChildren(button);
    }
    byId("words").addEventListener("input", (event) => change({ words: event.target.value }));
    byId("choose").addEventListener("submit", (event) => event.preventDefault());
    for (const radio of document.querySelectorAll("[name=state]")) {
      radio.addEventListener("change", () => change({ state: radio.value }));
    }
    byId("back").addEventListener("click", () => turn(-1));
    byId("on").addEventListener("click", () => turn(1));
    byId("choose").hidden = false;
    recall();
    choose();
    show();
  }

  return {
    stories(first, part) {
      part.forEach((values, place) => { rows[first + place] = unpack(values, first + place + 1); });
      missing -= 1;
      if (missing === 0) begin();
    },
  };
})();
