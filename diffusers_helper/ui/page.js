// Keeps the live parts of the page up to date, and remembers language and colours in this browser.
// Gradio runs it once per document, before it mounts anything, so there is one timer, whatever Gradio re-mounts.
// Gradio mounts a tab when it is first opened and rebuilds HTML when the language changes: every round puts each
// fragment where it is missing, and touches nothing that shows it already.
(() => {
  const LANGUAGES = ['en', 'ja', 'zh'];
  const GRADIO = {en: 'en', ja: 'ja', zh: 'zh-CN'};
  const SECOND = 1000;
  const NAME = Math.random().toString(36).slice(2); // The server counts the pages that look on.
  let seen = '';
  let pause = SECOND;
  let ahead = 0; // Seconds from this clock to the server's.
  let fragments = {};
  let words = {};
  let running = true;
  let timer = 0;
  let asking = false;
  let isLost = false;
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

  const BROWSER = navigator.languages || [navigator.language];

  function language() {
    const chosen = remembered('language');
    if (LANGUAGES.includes(chosen)) return chosen;
    const wished = BROWSER.map(tag => tag.slice(0, 2).toLowerCase());
    return wished.find(tag => LANGUAGES.includes(tag)) || 'en';
  }

  // Gradio's own words follow the browser when it starts, and uploads are refused by the server: both are to follow us.
  function settle() {
    Object.defineProperty(navigator, 'language', {configurable: true, get: () => GRADIO[language()]});
    document.cookie = `framepack_language=${language()}; SameSite=Lax; Max-Age=31536000`;
  }

  function speak(chosen) {
    remember('language', chosen);
    settle();
    document.documentElement.lang = chosen;
    seen = '';
    soon();
    return chosen;
  }

  // What this page wants to see: of queue and history find, state, count, waiting; of the shelf shelf, lora, model. An
  // empty wish is none.
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
    const button = event.target.closest?.('[data-wish], [data-copy]');
    if (button?.dataset.wish) wish(Object.fromEntries([button.dataset.wish.split('=')]));
    if (button?.dataset.copy) copy(button);
  }

  async function poll() {
    if (asking) return;
    asking = true;
    try {
      const query = new URLSearchParams({...wishes, language: language(), seen, page: NAME});
      const answer = await fetch('live?' + query, {signal: AbortSignal.timeout(10 * SECOND), cache: 'no-store'});
      if (answer.status === 401) location.reload();
      if (!answer.ok) throw new Error(answer.status);
      ahead = answer.headers.get('Server-Time') - Date.now() / SECOND;
      pause = SECOND * answer.headers.get('Ask-Again') || SECOND;
      if (answer.status !== 204) {
        const news = await answer.json();
        ({seen, running, fragments, words} = news);
        document.dispatchEvent(new CustomEvent('framepack-news', {detail: news}));
      }
      lost(false);
      document.dispatchEvent(new Event('framepack-answered'));
    } catch {
      lost(true);
    }
    asking = false;
    show();
    soon(document.hidden && !running ? 10 * SECOND : pause);
  }

  // One question of Gradio's that gets nowhere is the end to it: it heeds nothing that is typed from then on, and loads the
  // page anew as soon as the server answers. So its questions, one at a time for each event, are asked again until this
  // page's own are answered; 502 and above is a proxy's word for nobody there. A server that was started meanwhile knows the
  // same events. A command is not sent again, since it may have arrived; whoever gave it is told.
  const ask = window.fetch;
  window.fetch = async (address, options) => {
    const [, kind] = String(address).match(/\/gradio_api\/(run|queue\/join)\b/) ?? [];
    if (!kind) return ask(address, options);
    for (;;) {
      const answer = await ask(address, options).catch(() => null);
      if (answer && (answer.status < 502 || kind !== 'run')) return answer;
      lost(true);
      if (kind !== 'run') return Response.json({detail: words['page.not_sent']}, {status: 500});
      await new Promise(again => document.addEventListener('framepack-answered', again, {once: true}));
    }
  };

  function soon(wait = 100) {
    clearTimeout(timer);
    timer = setTimeout(poll, wait);
  }

  function show() {
    for (const place of document.querySelectorAll('[data-live]')) {
      const wanted = fragments[place.dataset.live];
      if (wanted !== undefined && place.shown !== wanted) put(place, wanted);
    }
    document.dispatchEvent(new Event('framepack-shown'));
  }

  // New pictures and videos are loaded before they take the place of the old ones, so that nothing flickers.
  // What had the focus gets it back, or something near it, so that the keyboard does not lose its place. Where nothing is
  // left, as after the last undo, the tab's first act gets it.
  async function put(place, wanted) {
    place.shown = wanted;
    const fresh = document.createElement('template');
    fresh.innerHTML = wanted;
    const content = document.importNode(fresh.content, true);
    const lists = content.querySelector('[data-parts]');
    if (!lists && place.querySelector('img, video')) await Promise.race([loaded(content), later(3 * SECOND)]);
    if (place.shown !== wanted) return;
    const at = controls(place).indexOf(document.activeElement);
    const focused = at < 0 ? null : {...document.activeElement.dataset};
    if (lists) patch(place, content);
    else place.replaceChildren(content);
    document.dispatchEvent(new Event('framepack-shown'));
    if (focused && !(place.contains(document.activeElement) && !document.activeElement.disabled)) near(place, focused, at)?.focus();
  }

  // The control that is marked like the one that had the focus, else the first of the same job, else the one in its place.
  function near(place, focused, at) {
    const here = controls(place);
    const there = (here.length ? here : controls(place.closest('[role=tabpanel]') ?? document.body, '[data-act]'))
      .filter(one => !one.disabled);
    const marks = Object.keys(focused).filter(mark => mark !== 'confirm');
    const same = marks.length && there.find(one => marks.every(mark => one.dataset[mark] === focused[mark]));
    const ofJob = focused.job && there.find(one => one.dataset.job === focused.job);
    return same || ofJob || there[Math.min(at, there.length - 1)];
  }

  function controls(place, which = 'button, a, input, summary') {
    return [...place.querySelectorAll(which)];
  }

  // Of lists, marked with data-parts, what is wanted as it was stays in the page: a video plays on, a menu stays open.
  function patch(place, content) {
    const there = [...place.children];
    const next = [...content.children].map(child => {
      const wanted = child.outerHTML;
      const same = there.find(one => one.wanted === wanted);
      const list = !same && child.dataset.parts && there.find(one => one.dataset.parts === child.dataset.parts);
      if (list) patch(list, child);
      else if (!same && child.dataset.parts) for (const part of child.children) part.wanted = part.outerHTML;
      const shown = same || list || child;
      shown.wanted = wanted;
      return shown;
    });
    for (const node of [...place.childNodes]) if (!next.includes(node)) node.remove();
    next.forEach((node, at) => { if (place.children[at] !== node) place.insertBefore(node, place.children[at]); });
  }

  function loaded(content) {
    const pictures = [...content.querySelectorAll('img')].map(one => one.decode().catch(() => {}));
    const videos = [...content.querySelectorAll('video[autoplay]')].map(one => new Promise(done => {
      one.onloadeddata = one.onerror = done;
    }));
    return Promise.all([...pictures, ...videos]);
  }

  function later(wait) {
    return new Promise(done => setTimeout(done, wait));
  }

  function lost(is) {
    isLost = is;
    const text = is ? words['page.lost'] || 'Connection lost, trying again…' : '';
    for (const banner of document.querySelectorAll('[data-live-lost]')) {
      if (banner.textContent !== text) banner.textContent = text;
    }
  }

  // Light or dark: what was chosen here, else what the system says. Gradio sets its class when it mounts.
  function dark() {
    const chosen = remembered('colours');
    return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  }

  function colour() {
    document.documentElement.style.colorScheme = dark() ? 'dark' : 'light';
    if (document.body.classList.contains('dark') !== dark()) {
      document.body.classList.toggle('dark', dark());
    }
  }

  function toggleColours(event) {
    if (!event.target.closest?.('#colours')) return;
    remember('colours', dark() ? 'light' : 'dark');
    colour();
  }

  // Answers when the form has not changed for a moment, to all who ask meanwhile with the same number.
  let changes = 0;
  async function settled() {
    for (let mine = ++changes; ; mine = changes) {
      await later(SECOND / 12);
      if (mine === changes) return mine;
    }
  }

  // A second click on what starts jobs within a second is a double click and adds nothing, unless the form was changed.
  let started = -Infinity;
  function oncePerSecond(event) {
    if (!event.target.closest?.('#start, #compare, #train-start')) return;
    if (event.timeStamp - started < SECOND) {
      event.stopImmediatePropagation();
      event.preventDefault();
    } else {
      started = event.timeStamp;
      soon(SECOND / 4);
    }
  }

  // Without a connection a command would be lost; the banner says why nothing happens.
  function onlyConnected(event) {
    if (!isLost || !event.target.closest?.('[data-act], #start-bar button, #compare, #train-start')) return;
    event.stopImmediatePropagation();
    event.preventDefault();
  }

  // After Start the stage shows what is at work; on a narrow screen it lies below the form.
  function toStage() {
    wish({show: ''});
    document.querySelector('#stage')?.scrollIntoView({block: 'nearest', behavior: 'smooth'});
  }

  // What unfolds below the Start bar comes into sight.
  function unfolded(event) {
    const fold = event.target.closest?.('#advanced > button')?.parentElement;
    if (fold) later(SECOND / 5).then(() => fold.scrollIntoView({block: 'nearest', behavior: 'smooth'}));
  }

  function agreed(button) {
    return !button.dataset.confirm || confirm(button.dataset.confirm);
  }

  document.addEventListener('visibilitychange', () => { if (!document.hidden) soon(); });
  document.addEventListener('click', () => setTimeout(show, SECOND / 10));
  document.addEventListener('click', pressed);
  document.addEventListener('click', unfolded);
  document.addEventListener('click', toggleColours);
  document.addEventListener('click', onlyConnected, true);
  document.addEventListener('click', oncePerSecond, true);
  document.addEventListener('input', () => { started = -Infinity; }, true);
  new MutationObserver(colour).observe(document.body, {attributes: true, attributeFilter: ['class']});
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', colour);
  colour();
  document.documentElement.lang = language();
  settle();
  const now = () => Date.now() / SECOND + ahead;
  Object.assign(window.framepack ??= {}, {remembered, remember, later, language, speak, soon, agreed, wish, settled, toStage, now});
  poll();
})();
