// The list of classes: a name, a number and a bar for each. Their order stays, so that what moves is the bars.

const list = document.getElementById("results");

/**
 * Makes the list anew if there are other classes.
 *
 * @param {readonly string[]} labels
 */
export function showLabels(labels) {
  document.getElementById("nothing").hidden = labels.length > 0;
  const shown = [...list.children].map((item) => item.dataset.label);
  if (shown.length === labels.length && shown.every((label, index) => label === labels[index])) return;
  list.replaceChildren(...labels.map(row));
}

/** @param {string} label */
function row(label) {
  const item = document.createElement("li");
  item.dataset.label = label;
  for (const name of ["label", "value", "bar"]) {
    const part = document.createElement("span");
    part.className = name;
    item.append(part);
  }
  item.querySelector(".label").textContent = label;
  item.querySelector(".bar").ariaHidden = "true";
  return item;
}

/**
 * Shows an answer.
 *
 * @param {import("adapter-export").Answer} answer
 * @returns {string} The same in words.
 */
export function show({ labels, logits, probabilities, problemType }) {
  showLabels(labels);
  const values = probabilities ?? logits;
  const largest = Math.max(...values);
  const isChosen = (value) => (problemType === "multi_label_classification" ? value > 0.5 : value === largest);
  const words = [];
  for (const [index, item] of [...list.children].entries()) {
    const value = values[index];
    const written = probabilities ? `${(100 * value).toFixed(1)} %` : value.toFixed(3);
    const chosen = probabilities !== null && isChosen(value);
    item.classList.toggle("chosen", chosen);
    item.querySelector(".value").textContent = written;
    item.querySelector(".value").dataset.value = String(value);
    const bar = item.querySelector(".bar");
    bar.hidden = probabilities === null;
    bar.style.setProperty("--share", String(value));
    if (chosen || probabilities === null) words.push(`${labels[index]}: ${written}`);
  }
  return words.join(", ") || "no label applies";
}
