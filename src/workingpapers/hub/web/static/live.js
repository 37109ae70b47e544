// Shows how far a job is while it runs. Without this file the page reloads itself.
"use strict";
(() => {
  const place = document.querySelector("[data-live]");
  if (!place || !window.EventSource) return;
  const part = (name) => place.querySelector(`[data-${name}]`);
  const bar = place.querySelector("progress");
  const show = (job) => {
    part("state").textContent = job.state;
    part("count").textContent = `${job.done}${job.total ? ` of ${job.total}` : ""} ${job.phase}`;
    part("log").textContent = job.log;
    if (job.total) {
      bar.max = job.total;
      bar.value = job.done;
    } else {
      bar.removeAttribute("value");
    }
  };
  const source = new EventSource(place.dataset.live);
  source.addEventListener("progress", (event) => show(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    source.close();
    location.reload(); // the page of a job that is over
  });
  window.addEventListener("pagehide", () => source.close());
})();
