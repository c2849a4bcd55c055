// Progress of running certifications; the page is loaded anew when one is done.

const POLL_MS = 1000;

for (const bar of document.querySelectorAll("[data-certification]")) {
  const poll = async () => {
    try {
      const response = await fetch(bar.dataset.certification, { headers: { Accept: "application/json" } });
      if (response.ok) {
        const { progress, is_running: isRunning } = await response.json();
        bar.value = progress;
        bar.textContent = `${progress} %`;
        if (!isRunning) {
          location.reload();
          return;
        }
      }
    } catch {
      // The next poll asks again.
    }
    setTimeout(poll, POLL_MS);
  };
  setTimeout(poll, POLL_MS);
}
