// @ts-check
// The filters of the images, and how many labels of the job match.

const form = /** @type {HTMLFormElement | null} */ (document.querySelector("#filters"));

/** @param {string} name @returns {HTMLInputElement} */
const getField = (name) => /** @type {HTMLInputElement} */ (form?.elements.namedItem(name));

/** @returns {Filter} */
function readFilter() {
  const [step, name] = [getField("step").value, getField("class").value];
  const filter = {
    step: step === "" ? -1 : Number(step),
    class: name === "" ? -1 : Number(name),
    low: Math.round(Number(getField("low").value) * BINS),
    high: Math.round(Number(getField("high").value) * BINS),
    review: getField("review").checked,
    order: getField("order").value,
  };
  const active = filter.step >= 0 || filter.class >= 0 || filter.low > 0 || filter.high < BINS || filter.review;
  return { ...filter, active };
}

/** Returns the labels of an image that match; the answers of a step if one is chosen. @param {Filter} filter
 * @param {ShownImage} image */
function selectLabels(filter, image) {
  const labels = filter.step >= 0 && image.answers.length ? image.answers : image.labels;
  return labels.filter((label) => (filter.step < 0 || filter.step === label.step) && isMatch(filter, label));
}

/** The bin of a score, as the counts have it. @param {number} score */
const getBin = (score) => Math.min(Math.floor(score * BINS), BINS - 1);

/** @param {Filter} filter @param {Label} label */
function isMatch(filter, label) {
  if ((filter.class >= 0 && filter.class !== label.class) || (filter.review && !label.review)) return false;
  const isFull = filter.low === 0 && filter.high === BINS;
  return isFull || (label.score !== null && filter.low <= getBin(label.score) && getBin(label.score) < filter.high);
}

/** Returns how many labels of the whole job match, and their scores without the limits of the score.
 * @param {Filter} filter */
function countMatches(filter) {
  const all = new Array(BINS).fill(0);
  const review = new Array(BINS).fill(0);
  let matches = 0;
  for (const [step, name, count, toReview, bins] of data.counts) {
    if (step !== filter.step || (filter.class >= 0 && name !== filter.class)) continue;
    for (const [bin, n, flagged] of bins) {
      all[bin] += filter.review ? flagged : n;
      review[bin] += flagged;
      if (bin >= filter.low && bin < filter.high) matches += filter.review ? flagged : n;
    }
    if (filter.low === 0 && filter.high === BINS) {
      // Labels without a score are in no bin.
      const scored = bins.reduce((sum, [, n, flagged]) => sum + (filter.review ? flagged : n), 0);
      matches += (filter.review ? toReview : count) - scored;
    }
  }
  return { matches, all, review };
}

/** @param {number[]} all @param {number[]} review @param {Filter} filter */
function drawHistogram(all, review, filter) {
  const highest = Math.max(...all, 1);
  find("#score-histogram").replaceChildren(
    ...all.flatMap((n, bin) => {
      const outside = bin < filter.low || bin >= filter.high ? " out" : "";
      const draw = (/** @type {number} */ count, /** @type {string} */ kind) => {
        const height = Math.max((38 * count) / highest, 1);
        return makeSvg("rect", { class: kind + outside, x: bin * 10 + 0.5, y: 40 - height, width: 9, height });
      };
      return [...(n ? [draw(n, "sure")] : []), ...(review[bin] ? [draw(review[bin], "flagged")] : [])];
    }),
  );
}

/** @type {Card[]} */
let visible = [];

/** Returns a number that is smaller for less certain labels. @param {Label[]} labels */
const rank = (labels) => Math.min(2, ...labels.map((label) => (label.review ? 0 : 1) + (label.score ?? 1)));

/** @param {Card[]} cards */
function applyFilter(cards) {
  const filter = readFilter();
  const found = cards
    .map((card) => ({ card, labels: selectLabels(filter, card.image) }))
    .filter(({ labels }) => labels.length || !filter.active);
  found.sort((a, b) =>
    filter.order === "name"
      ? a.card.image.name.localeCompare(b.card.image.name, "en", { numeric: true })
      : rank(a.labels) - rank(b.labels),
  );
  for (const { card, labels } of found) updateCard(card, labels);
  visible = found.map(({ card }) => card);
  find("#gallery").replaceChildren(...visible.map(({ card }) => card));
  find("#no-match").hidden = visible.length > 0;
  const { matches, all, review } = countMatches(filter);
  drawHistogram(all, review, filter);
  getField("from").textContent = (filter.low / BINS).toFixed(2);
  getField("to").textContent = (filter.high / BINS).toFixed(2);
  const shown = found.reduce((sum, { labels }) => sum + labels.length, 0);
  find("#matches").textContent = filter.active
    ? `${plural(matches, "label")} in the job. Shown here: ${plural(shown, "label")} in ${plural(visible.length, "image")}.`
    : `${plural(matches, "label")} in the job, ${plural(shown, "label")} in the ${plural(visible.length, "image")} here.`;
  for (const row of document.querySelectorAll("#class-table tbody tr")) {
    row.classList.toggle("chosen", Number(row.getAttribute("data-class")) === filter.class);
  }
}

/** @param {HTMLFormElement} filters */
function startFilters(filters) {
  const cards = data.images.map(makeCard);
  const counts = new Map(data.classes.map((_, i) => [i, 0]));
  for (const [step, name, count] of data.counts) if (step < 0 && name >= 0) counts.set(name, (counts.get(name) ?? 0) + count);
  getField("class").append(
    ...data.classes.map((name, i) => make("option", { value: String(i) }, `${name || "(no label)"} (${counts.get(i)})`)),
  );
  getField("step").append(...data.steps.map((step, i) => make("option", { value: String(i) }, `answers of ${step.id}`)));
  let waiting = 0;
  const update = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => applyFilter(cards));
  };
  filters.addEventListener("input", (event) => {
    const [low, high] = [getField("low"), getField("high")];
    if (Number(low.value) >= Number(high.value)) {
      // The thumbs stay apart: an empty range matches nothing.
      if (event.target === low) low.value = String(Number(high.value) - 1 / BINS);
      else high.value = String(Number(low.value) + 1 / BINS);
    }
    update();
  });
  filters.addEventListener("reset", () => setTimeout(update));
  filters.addEventListener("submit", (event) => event.preventDefault());
  find("#clear").addEventListener("click", () => filters.reset());
  find("[data-review]").addEventListener("click", () => {
    filters.reset();
    getField("review").checked = true;
    update();
  });
  filters.hidden = false;
  applyFilter(cards);
}
