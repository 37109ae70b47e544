// Comfort only: every page works without this file.
"use strict";
(() => {
  const root = document.documentElement;
  const keys = document.getElementById("keys");
  const search = document.getElementById("q");

  // Light and dark: the forms work alone; here they skip the round trip.
  const stored = () => (document.cookie.match(/(?:^|; )theme=(light|dark)/) || [])[1];
  const show = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  const keep = (theme) => {
    const secure = location.protocol === "https:" ? "; secure" : "";
    const age = theme ? 31536000 : 0;
    document.cookie = `theme=${theme}; path=/; max-age=${age}; samesite=lax${secure}`;
    show(theme);
  };
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "")) === "dark";
  for (const form of document.querySelectorAll("[data-theme-form]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = event.submitter ? event.submitter.value : "";
      keep(value === "system" ? "" : value);
      const next = [...form.querySelectorAll("button")].find((button) => button.checkVisibility());
      if (next) next.focus();
    });
  }
  window.addEventListener("pageshow", (event) => event.persisted && show(stored()));

  // Letters come at an hour of the reader's own day.
  for (const field of document.querySelectorAll("input[data-zone]")) {
    field.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  }

  // Papers: j and k move, o opens; Enter is the link's own.
  const links = [...document.querySelectorAll("a[data-go]")];
  const top = (link) => (link.closest(".card, tr, li") || link).getBoundingClientRect().top;
  const move = (step) => {
    const now = links.indexOf(document.activeElement);
    const below = links.findIndex((link) => top(link) >= 0);
    const start = step > 0 ? below : (below < 0 ? links.length : below) - 1;
    const link = links[now >= 0 ? now + step : start];
    if (!link) return;
    link.focus({ preventScroll: true });
    (link.closest(".card, tr, li") || link).scrollIntoView({ block: "nearest" });
  };

  // Votes: the forms work alone; here the page stays where it is.
  const vote = async (form) => {
    const body = new URLSearchParams(new FormData(form));
    const sent = { method: "POST", body, headers: { Accept: "application/json" } };
    const answer = await fetch(form.action, sent).catch(() => null);
    if (!answer || !answer.ok || answer.redirected) return form.submit();
    const { voted, votes } = await answer.json();
    form.querySelector("[data-votes]").textContent = votes;
    form.querySelector("button").setAttribute("aria-pressed", String(voted));
    form.elements.on.value = voted ? "0" : "1";
  };
  for (const form of document.querySelectorAll("form[data-vote]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      vote(form);
    });
  }
  const upvote = () => {
    const at = document.activeElement.closest(".card, .paper") || document.querySelector(".paper");
    const control = at && at.querySelector(".vote button, .vote a");
    if (control) control.click();
  };

  const actions = {
    "/": () => { search.focus(); search.select(); },
    j: () => move(1),
    k: () => move(-1),
    o: () => links.includes(document.activeElement) && document.activeElement.click(),
    u: upvote,
    t: () => keep(dark() ? "light" : "dark"),
    "?": () => keys.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || keys.open) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
  for (const button of document.querySelectorAll("[data-keys]")) {
    button.hidden = false;
    button.addEventListener("click", actions["?"]);
  }

  // Copy buttons, where the browser can.
  if (navigator.clipboard) {
    for (const block of document.querySelectorAll("pre[data-copy]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(block.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      block.prepend(button);
    }
  }
})();
