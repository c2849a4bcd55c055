// Runs before the first paint: the style sheet may now count on scripts.
document.documentElement.classList.add("js");
