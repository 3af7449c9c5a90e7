// What every page loads: htmx, and a form's habits.
import "htmx.org";

// Dates count where no other range is named, so choosing a date chooses them.
document.addEventListener("change", (event) => {
  const field = event.target;
  if (field.type !== "date") return;
  const range = field.form?.elements.namedItem("range");
  if (range) range.value = "given";
}, true);
