// Buttons that copy a text. In: a part of the page in which buttons have `data-copy`, the id of what to copy, and one
// element of class `copied` tells screen readers. Out: the text on the clipboard, or marked where there is no clipboard.

const TOLD_MS = 1500;

export function wireCopying(part) {
  part.addEventListener("click", ({ target }) => target.dataset.copy && copy(target, part.querySelector(".copied")));
}

async function copy(button, told) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Plain http has no clipboard: mark the text, so that one key press copies it.
    getSelection().selectAllChildren(source);
    told.textContent = "Marked; press the copy key.";
    button.textContent = "Marked";
    return;
  }
  told.textContent = "Copied.";
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), TOLD_MS);
}
