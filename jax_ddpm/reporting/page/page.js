"use strict";
// Without this script all states of a slider are shown one below the other, and an animation plays unless the system asks for less motion.
for (const figure of document.querySelectorAll("[data-slider]")) {
  const range = figure.querySelector("input"), output = figure.querySelector("output");
  const frames = [...figure.querySelectorAll("[data-value]")];
  const show = () => {
    const place = Number(range.value), value = frames[place].dataset.value;
    frames.forEach((frame, number) => { frame.hidden = number !== place; });
    output.textContent = value;
    range.setAttribute("aria-valuetext", value);
  };
  range.value = figure.dataset.start; // not where a reload would leave it
  range.addEventListener("input", show);
  figure.querySelector(".control").hidden = false;
  figure.classList.add("sliding");
  show();
}
for (const figure of document.querySelectorAll("[data-animation]")) {
  const still = figure.querySelector("source"), button = figure.querySelector("button");
  const set = (moving) => {
    still.media = moving ? "not all" : "all";
    button.textContent = moving ? "Pause the animation" : "Play the animation";
    button.onclick = () => set(!moving);
  };
  const less = matchMedia("(prefers-reduced-motion: reduce)");
  less.addEventListener("change", () => set(!less.matches));
  set(!less.matches);
  button.hidden = false;
}
