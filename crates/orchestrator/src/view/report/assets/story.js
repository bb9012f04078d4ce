// One video at a time, and arcs that light up. The page works without.
"use strict";

for (const video of document.querySelectorAll("video")) {
  // A quiet picture until it is asked to play; without this script the controls are there at once.
  video.controls = false;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "play";
  button.setAttribute("aria-label", `Play: ${video.getAttribute("aria-label")}`);
  button.addEventListener("click", () => {
    // Only with controls can it have the focus.
    video.controls = true;
    video.play();
    video.focus();
  });
  video.after(button);
  video.addEventListener("play", () => {
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    video.controls = true;
    button.remove();
  });
}

const drawing = document.querySelector(".lineage svg");
if (drawing) {
  const light = (column) => {
    drawing.classList.toggle("chosen", column !== null);
    for (const arc of drawing.querySelectorAll(".arcs path")) {
      arc.classList.toggle("chosen", arc.dataset.to === column || arc.dataset.from === column);
    }
  };
  for (const card of drawing.querySelectorAll(".card")) {
    card.addEventListener("pointerenter", () => light(card.dataset.column));
    card.addEventListener("pointerleave", () => light(null));
    const shot = card.dataset.shot;
    if (shot) card.addEventListener("click", () => { location.hash = `shot-${shot}`; });
  }
}
