// @ts-check
// Images with their labels, small ones in a grid.

const DRAWN = 60; // labels on a small image; more of them would cover it
const NAMED = 8; // labels on a small image whose names are drawn
const LINES = 3;

/** Returns the shapes and the names of labels, to lie over their image. @param {ShownImage} image @param {Label[]} labels
 * @param {number} named @returns {(SVGElement | HTMLElement)[]} */
function drawLabels(image, labels, named) {
  const shapes = labels.filter((label) => label.rings.length);
  const paths = shapes.map((label) =>
    makeSvg("path", {
      class: `${getColor(label)}${label.review ? " flagged" : ""}`,
      d: label.rings.map((ring) => `M${ring.join(" ")}Z`).join(""),
      "fill-rule": "evenodd",
      "data-label": labels.indexOf(label),
    }),
  );
  const view = `0 0 ${image.width} ${image.height}`;
  const svg = makeSvg("svg", { viewBox: view, preserveAspectRatio: "none", "aria-hidden": "true" }, ...paths);
  const tags = shapes.length > named ? [] : shapes.filter((label) => label.text).map((label) => {
    const points = label.rings.flat();
    const x = Math.max(0, Math.min(...points.filter((_, i) => i % 2 === 0))) / image.width;
    const y = Math.max(0, Math.min(...points.filter((_, i) => i % 2 === 1))) / image.height;
    const tag = make("bdi", { class: `tag ${getColor(label)}`, "aria-hidden": "true" }, label.text + formatScore(label));
    if (x > 0.6) tag.style.right = `${100 * Math.max(0, 1 - Math.max(...points.filter((_, i) => i % 2 === 0)) / image.width)}%`;
    else tag.style.left = `${100 * x}%`;
    tag.style.top = `${100 * Math.min(y, 0.93)}%`;
    if (y > 0.08) tag.style.transform = "translateY(-100%)";
    return tag;
  });
  return [svg, ...tags];
}

/** Returns an image in a frame of its shape, and the element for what lies over it. @param {ShownImage} image */
function makeFrame(image) {
  const overlay = make("span");
  const alt = image.labels.length ? `${image.name}: ${[...new Set(image.labels.map((label) => label.text))].slice(0, 8).join(", ")}` : image.name;
  const picture = make("img", { src: image.file, alt, loading: "lazy", decoding: "async" });
  const frame = make("span", { class: "frame" }, picture, overlay);
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  return { frame, overlay };
}

/** Returns one line of a label: what it is about, its text, step and score, and why it is to review.
 * @param {ShownImage} image @param {Label} label @returns {Node[]} */
function describe(image, label) {
  const about = getParent(image, label)?.text;
  return [
    ...(about && !label.rings.length ? [make("span", { class: "about" }, make("bdi", {}, about), ": ")] : []),
    make("bdi", { class: "words" }, label.text || "(no label)"),
    make("span", { class: "note" }, ` ${data.steps[label.step].id}${label.score === null ? "" : ` ·${formatScore(label)}`}`),
    ...label.attributes.map(([name, value]) =>
      make("span", { class: "attribute" }, make("span", { class: "about" }, `${name}: `), make("bdi", {}, value)),
    ),
    ...(label.review ? [make("span", { class: "why" }, label.review)] : []),
  ];
}

/** @param {ShownImage} image @returns {Card} */
function makeCard(image) {
  const facts = make("span", { class: "note" });
  const lines = make("ul");
  const caption = make("header", {}, make("bdi", { class: "name" }, image.name), facts);
  if (image.error) {
    const message = make("p", {}, `This image cannot be shown: ${image.error}`);
    const card = make("article", { class: "card" }, make("div", { class: "image error" }, message), caption, lines);
    return { image, card, overlay: make("span"), facts, lines };
  }
  const { frame, overlay } = makeFrame(image);
  frame.classList.add(image.width * 4 >= image.height * 5 ? "wide" : "high");
  const button = make("button", { type: "button", class: "image", "aria-label": `Enlarge ${image.name}` }, frame);
  const card = make("article", { class: "card" }, button, caption, lines);
  const made = { image, card, overlay, facts, lines };
  button.addEventListener("click", () => viewer.open(made));
  return made;
}

/** Shows the labels of a card that match. @param {Card} card @param {Label[]} labels */
function updateCard({ image, overlay, facts, lines }, labels) {
  overlay.replaceChildren(...drawLabels(image, labels.slice(0, DRAWN), NAMED));
  const total = image.labels.length + image.hidden;
  const count = labels.length === total ? plural(total, "label") : `${labels.length} of ${plural(total, "label")}`;
  facts.textContent = `${image.size.join("×")} · ${count}`;
  const told = [...labels.filter((label) => label.review), ...labels.filter((label) => !label.review && !label.rings.length)];
  const shown = told.slice(0, LINES).map((label) =>
    make("li", label.review ? { class: "flagged" } : {}, ...describe(image, label)),
  );
  if (told.length > LINES) shown.push(make("li", { class: "note" }, `and ${told.length - LINES} more`));
  lines.replaceChildren(...shown);
}
