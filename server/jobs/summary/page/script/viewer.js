// @ts-check
// The enlarged view.

class Viewer {
  constructor() {
    this.dialog = /** @type {HTMLDialogElement} */ (find("#viewer"));
    this.all = /** @type {HTMLInputElement} */ (find("#viewer-all"));
    this.names = /** @type {HTMLInputElement} */ (find("#viewer-names"));
    this.index = 0;
    this.dialog.addEventListener("click", (event) => this.onClick(/** @type {Element} */ (event.target)));
    this.dialog.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.go(move);
    });
    this.dialog.addEventListener("close", () => this.getCard()?.card.querySelector("button")?.focus());
    for (const box of [this.all, this.names]) box.addEventListener("input", () => this.show());
    for (const kind of ["mouseover", "focusin"]) {
      this.dialog.addEventListener(kind, (event) => this.activate(/** @type {Element} */ (event.target)));
    }
    new ResizeObserver(() => this.fit()).observe(find(".large", this.dialog));
  }

  /** @returns {Card | undefined} */
  getCard() {
    return this.getCards()[this.index];
  }

  getCards() {
    return visible.filter(({ image }) => !image.error);
  }

  /** @param {Card} card */
  open(card) {
    this.index = this.getCards().indexOf(card);
    this.dialog.showModal();
    this.show();
  }

  /** @param {number} move */
  go(move) {
    const count = this.getCards().length;
    this.index = (this.index + move + count) % count;
    this.show();
  }

  /** @param {Element} target */
  onClick(target) {
    const button = target.closest("[data-go]");
    if (button) this.go(Number(button.getAttribute("data-go")));
    else if (target === this.dialog || target.closest("[data-close]")) this.dialog.close();
    else if (target.matches("path")) this.findButton(target.getAttribute("data-label"))?.focus();
  }

  /** @param {string | null} label @returns {HTMLElement | null} */
  findButton(label) {
    return this.dialog.querySelector(`.labels [data-label="${label}"]`);
  }

  /** Highlights a label in the image and in the list. @param {Element} target */
  activate(target) {
    const label = target.closest("[data-label]")?.getAttribute("data-label");
    for (const each of this.dialog.querySelectorAll("[data-label]")) {
      each.classList.toggle("active", each.getAttribute("data-label") === label);
    }
    if (target.matches("path")) this.findButton(label ?? null)?.scrollIntoView({ block: "nearest" });
  }

  show() {
    const card = this.getCard();
    if (!card) return;
    const { image } = card;
    const filter = readFilter();
    this.all.disabled = !filter.active;
    const found = this.all.checked ? image.labels : selectLabels(filter, image);
    const labels = [...found.filter((label) => label.review), ...found.filter((label) => !label.review)];
    const { frame, overlay } = makeFrame(image);
    overlay.append(...drawLabels(image, labels, this.names.checked ? Infinity : -1));
    find(".large", this.dialog).replaceChildren(frame);
    this.fit();
    find("#viewer-name").textContent = image.name;
    const hidden = image.hidden ? `, ${image.hidden} more not listed` : "";
    find("#viewer-facts").textContent =
      `${this.index + 1} of ${this.getCards().length} · ${image.size.join("×")} · ${plural(labels.length, "label")}${hidden}`;
    find(".labels", this.dialog).replaceChildren(
      ...labels.map((label, i) => {
        const name = label.review ? "flagged" : "";
        const button = make("button", { type: "button", class: name, "data-label": String(i) });
        if (label.rings.length) button.append(make("i", { class: `swatch ${getColor(label)}` }));
        button.append(...describe(image, label));
        return make("li", {}, button);
      }),
    );
  }

  /** Makes the image as large as there is room for. */
  fit() {
    const [room, card] = [find(".large", this.dialog), this.getCard()];
    const frame = /** @type {HTMLElement | null} */ (room.querySelector(".frame"));
    if (!card || !frame) return;
    const { width, height } = card.image;
    const scale = Math.min((room.clientWidth - 24) / width, (room.clientHeight - 24) / height);
    frame.style.width = `${Math.floor(width * scale)}px`;
  }
}
