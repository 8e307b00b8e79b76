// Before anything is drawn: the look that was chosen, so that nothing flashes. Not a module, which would run later.
try {
  const look = localStorage.getItem("moewe.look");
  if (look === "light" || look === "dark") document.documentElement.dataset.look = look;
} catch {
  // Without storage the system's look is taken.
}
