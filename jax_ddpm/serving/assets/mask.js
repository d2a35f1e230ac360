// The mask of inpainting, painted over the picture in its own pixels: props.size a side, props.picture a data: URI or "".
// props.value becomes a 1 (drawn anew) or a 0 (kept) for each pixel, row by row.
const canvas = element.querySelector("canvas");
const brush = element.querySelector("[data-brush]");
const erase = element.querySelector("[data-erase]");
const painted = element.querySelector("[data-painted]");
const size = props.size;
const context = canvas.getContext("2d");
const picture = new Image();
let mask = new Uint8Array(size * size);
let at = [size >> 1, size >> 1]; // the pixel under the brush
let before = null; // the one before, of a stroke that goes on

canvas.width = canvas.height = size;
brush.max = Math.max(size >> 1, 1);
brush.value = Math.max(size >> 3, 1);

function show() {
  context.clearRect(0, 0, size, size);
  if (props.picture) context.drawImage(picture, 0, 0, size, size);
  context.fillStyle = "rgba(230, 97, 0, 0.75)";
  mask.forEach((set, place) => set && context.fillRect(place % size, Math.floor(place / size), 1, 1));
  if (document.activeElement === canvas) {
    context.fillStyle = "rgba(0, 120, 255, 0.9)";
    context.fillRect(at[0], at[1], 1, 1);
  }
}

function tell() {
  const count = mask.reduce((sum, set) => sum + set, 0);
  painted.textContent = count ? `${count} of ${size * size} pixels are painted.` : "Nothing is painted.";
  props.value = mask.join("");
  show();
}

function stamp([x, y]) {
  const width = Number(brush.value), first = -Math.floor(width / 2);
  for (let row = y + first; row < y + first + width; row++)
    for (let column = x + first; column < x + first + width; column++)
      if (row >= 0 && row < size && column >= 0 && column < size) mask[row * size + column] = erase.checked ? 0 : 1;
}

function stroke(from, to) {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let step = 0; step <= steps; step++)
    stamp([0, 1].map(axis => Math.round(from[axis] + (to[axis] - from[axis]) * step / steps)));
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(share =>
    Math.min(Math.max(Math.floor(share * size), 0), size - 1));
}

canvas.addEventListener("pointerdown", event => {
  event.preventDefault();
  canvas.focus({preventScroll: true});
  canvas.setPointerCapture(event.pointerId);
  before = at = under(event);
  stamp(at);
  show();
});
canvas.addEventListener("pointermove", event => {
  if (!before) return;
  at = under(event);
  stroke(before, at);
  before = at;
  show();
});
for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, () => {
    if (before) { before = null; tell(); }
  });

const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
canvas.addEventListener("keydown", event => {
  if (event.key === " ") {
    stamp(at);
    tell();
  } else if (MOVES[event.key]) {
    at = at.map((place, axis) => Math.min(Math.max(place + MOVES[event.key][axis], 0), size - 1));
    show();
  } else return;
  event.preventDefault();
});
for (const turn of ["focus", "blur"]) canvas.addEventListener(turn, show);

const QUARTER = Math.floor(size / 4);
const REGIONS = {
  left: (x, y) => x < Math.floor(size / 2),
  right: (x, y) => x >= Math.floor(size / 2),
  centre: (x, y) => Math.min(x, y) >= QUARTER && Math.max(x, y) < size - QUARTER,
  nothing: () => false,
};
for (const button of element.querySelectorAll("[data-region]"))
  button.addEventListener("click", () => {
    mask = mask.map((_, place) => REGIONS[button.dataset.region](place % size, Math.floor(place / size)) ? 1 : 0);
    tell();
  });

picture.addEventListener("load", show);
function load() {
  if (props.picture) picture.src = props.picture;
  show();
}
watch("picture", load);
load();
