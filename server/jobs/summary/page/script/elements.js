// @ts-check
// The data of the page, and how elements are made. Names and labels are only ever set as text, never as HTML.

/**
 * @typedef {{id: string, kind: string, threshold: number, calibrated: boolean}} Step
 * @typedef {{step: number, class: number, text: string, score: number | null, review: string, rings: number[][], attributes: string[][], about: number}} Label
 * @typedef {{name: string, size: number[], width: number, height: number, file: string, error: string, labels: Label[], hidden: number, answers: Label[]}} ShownImage labels are made of the answers, if these are others
 * @typedef {[number, number, number, number, [number, number, number][]]} Counts step (-1: labels of all steps), class, count, count to review, and for each bin its index and both counts
 * @typedef {{step: number, class: number, low: number, high: number, review: boolean, order: string, active: boolean}} Filter
 * @typedef {{image: ShownImage, card: HTMLElement, overlay: HTMLElement, facts: HTMLElement, lines: HTMLElement}} Card
 */

const BINS = 20; // of scores, in the data

const data = /** @type {{steps: Step[], classes: string[], counts: Counts[], images: ShownImage[]}} */ (
  JSON.parse(find("#data").textContent ?? "")
);

/** @param {string} selector @param {ParentNode} [inside] @returns {HTMLElement} */
function find(selector, inside = document) {
  const found = inside.querySelector(selector);
  if (!(found instanceof Element)) throw new Error(`the page has no ${selector}`);
  return /** @type {HTMLElement} */ (found);
}

/**
 * Creates an element. Its children are elements and texts.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, string>} attributes @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {Node[]} children @returns {SVGElement} */
function makeSvg(tag, attributes, ...children) {
  const made = /** @type {SVGElement} */ (document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {number} n @param {string} one */
const plural = (n, one) => `${n.toLocaleString("en")} ${n === 1 ? one : `${one}s`}`;

/** @param {Label} label */
const getColor = (label) => `c${(label.class >= 0 ? label.class : label.step) % 10}`;

/** @param {Label} label */
const formatScore = (label) => (label.score === null ? "" : ` ${Math.round(100 * label.score)}%`);

/** Returns the label that another one of an image is about. @param {ShownImage} image @param {Label} label */
function getParent(image, label) {
  return (image.answers.includes(label) ? image.answers : image.labels)[label.about];
}
