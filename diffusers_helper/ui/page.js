// Keeps the live parts of the page up to date, and remembers language and colours in this browser.
// Stands in the head once per document, so there is one timer, whatever Gradio re-mounts.
// Gradio mounts a tab when it is first opened and rebuilds HTML when the language changes: every round puts each
// fragment where it is missing, and touches nothing that shows it already.
(() => {
  const LANGUAGES = ['en', 'ja', 'zh'];
  const SECOND = 1000;
  let seen = '';
  let fragments = {};
  let running = true;
  let timer = 0;
  let asking = false;
  let wishes = {};

  // The fragments name media relative to the page, so the page's own address ends in a slash.
  if (!location.pathname.endsWith('/')) {
    history.replaceState(null, '', location.pathname + '/' + location.search + location.hash);
  }

  function remembered(key) {
    try { return localStorage.getItem('framepack.' + key); } catch { return null; }
  }

  function remember(key, value) {
    try { localStorage.setItem('framepack.' + key, value); } catch { /* private windows may refuse */ }
  }

  function language() {
    const chosen = remembered('language');
    if (LANGUAGES.includes(chosen)) return chosen;
    const wished = (navigator.languages || [navigator.language]).map(tag => tag.slice(0, 2).toLowerCase());
    return wished.find(tag => LANGUAGES.includes(tag)) || 'en';
  }

  function speak(chosen) {
    remember('language', chosen);
    document.documentElement.lang = chosen;
    seen = '';
    soon();
    return chosen;
  }

  // What this page wants to see of the history: find, state, count. An empty wish is none.
  function wish(changes) {
    wishes = Object.fromEntries(Object.entries({...wishes, ...changes}).filter(([, value]) => value));
    seen = '';
    soon();
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = button.dataset.copied;
    } catch { // Only safe addresses may write to the clipboard; elsewhere the text is there to be copied by hand.
      getSelection().selectAllChildren(button.previousElementSibling);
    }
  }

  function pressed(event) {
    const button = event.target.closest?.('[data-wish-count], [data-copy]');
    if (button?.dataset.wishCount) wish({count: button.dataset.wishCount});
    if (button?.dataset.copy) copy(button);
  }

  async function poll() {
    if (asking) return;
    asking = true;
    try {
      const query = new URLSearchParams({...wishes, language: language(), seen});
      const answer = await fetch('live?' + query, {signal: AbortSignal.timeout(10 * SECOND), cache: 'no-store'});
      if (answer.status === 401) location.reload();
      if (!answer.ok) throw new Error(answer.status);
      if (answer.status !== 204) {
        const news = await answer.json();
        ({seen, running} = news);
        fragments = news.fragments;
      }
      lost(false);
    } catch {
      lost(true);
    }
    asking = false;
    show();
    soon(document.hidden && !running ? 10 * SECOND : SECOND);
  }

  function soon(wait = 100) {
    clearTimeout(timer);
    timer = setTimeout(poll, wait);
  }

  function show() {
    for (const place of document.querySelectorAll('[data-live]')) {
      const wanted = fragments[place.dataset.live];
      if (wanted !== undefined && place.shown !== wanted) put(place, wanted);
    }
  }

  // A button that had the focus gets it back, so that the keyboard does not lose its place.
  function put(place, wanted) {
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset : null;
    place.innerHTML = wanted;
    place.shown = wanted;
    if (focused?.act) {
      const same = [...place.querySelectorAll('[data-act]')];
      same.find(one => one.dataset.act === focused.act && one.dataset.job === focused.job)?.focus();
    }
  }

  function lost(is) {
    for (const banner of document.querySelectorAll('[data-live-lost]')) {
      const text = is ? banner.dataset.text : '';
      if (banner.textContent !== text) banner.textContent = text;
    }
  }

  function agreed(button) {
    return !button.dataset.confirm || confirm(button.dataset.confirm);
  }

  document.addEventListener('visibilitychange', () => { if (!document.hidden) soon(); });
  document.addEventListener('click', () => setTimeout(show, SECOND / 10));
  document.addEventListener('click', pressed);
  document.documentElement.lang = language();
  window.framepack = {language, speak, soon, agreed, wish};
  poll();
})();
