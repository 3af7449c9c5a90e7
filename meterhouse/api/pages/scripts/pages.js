// What every page loads: htmx, and a form's habits.
import "htmx.org";

// Dates count where no other range is named, so choosing a date chooses them.
document.addEventListener("change", (event) => {
  const field = event.target;
  if (field.type !== "date") return;
  const range = field.form?.elements.namedItem("range");
  if (range) range.value = "given";
}, true);

// A value that is chosen from a list is meant; one that is being written is not yet.
document.addEventListener("input", (event) => {
  const field = event.target;
  if (!field.list || event.inputType === "insertText" || event.inputType === "deleteContentBackward") return;
  if ([...field.list.options].some((each) => each.value === field.value)) field.dispatchEvent(new Event("change", { bubbles: true }));
});

// What does not come is told where it was waited for.
for (const trouble of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(trouble, (event) => {
    const waiting = event.target.querySelector(".waiting") ?? event.target.closest(".part, form")?.querySelector(".waiting");
    if (!waiting) return;
    waiting.classList.add("failed");
    waiting.textContent = "The server did not answer. Try again.";
  });
}

// Of a menu wider than the screen, the page that is shown is in sight.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
