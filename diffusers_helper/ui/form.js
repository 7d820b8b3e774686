// The form in the browser: its draft, the job it edits, what is wrong with it, shown at the fields, and what is dropped.
(() => {
  const DRAFT = 'framepack.form';
  const ZONES = ['#restore-file', '#preset-import'];
  const PATIENCE = 10000;
  const awaited = new Set(['words', 'draft']);
  let waiting;
  let edited = 0;
  let queued = [];
  let run; // Of the program, as it was told last.
  let kept;
  let now; // What the form's components have.
  let words = {};
  let refusals = 0; // How often it was said what is wrong.
  let insisted = 0; // How often after a refused command.
  let looked = 0; // The same when the latest look ahead was asked for.

  // Each tab has its own draft; a new tab begins with the newest of all. Private windows may refuse both.
  function keep(editing, values) {
    const picture = values.picture?.path?.split(/[\\/]/).slice(-2).join('/') ?? null;
    now = {...values, picture};
    if (editing || awaited.has('draft')) return;
    kept = now;
    write('sessionStorage', 'localStorage');
  }

  function formNow() {
    return now ? JSON.stringify({values: now}) : '';
  }

  function lookAhead() {
    looked = insisted;
    return formNow();
  }

  function write(...stores) {
    const text = JSON.stringify({run, values: kept});
    for (const store of stores) {
      try { window[store].setItem(DRAFT, text); } catch { /* then it lasts as long as the page */ }
    }
  }

  // What a page shows that stays open while the program starts again is a draft of the new run.
  function goesOn(told) {
    if (told === run) return;
    run = told;
    if (kept) write('sessionStorage');
  }

  function draft() {
    waiting ??= setTimeout(came, PATIENCE, ...awaited);
    try { return sessionStorage.getItem(DRAFT) ?? localStorage.getItem(DRAFT) ?? ''; } catch { return ''; }
  }

  // Until words and draft are there the page takes nothing, or either would write over what came first. The page does not
  // wait for ever.
  function came(...parts) {
    for (const part of parts) awaited.delete(part);
    document.body.inert = awaited.size > 0;
  }

  // Gives the form's values: the draft's, unless it comes when the page is already in use.
  function open(read, now) {
    const values = awaited.has('draft') && read ? JSON.parse(read) : [];
    came('draft');
    return now.map((value, place) => values[place] ?? value);
  }

  // The page is marked while a queued job is edited, and when it is too late for that.
  function edits(job) {
    edited = job;
    mark();
    return job;
  }

  function mark() {
    document.body.classList.toggle('editing', Boolean(edited));
    document.body.classList.toggle('too-late', Boolean(edited) && !queued.includes(edited));
  }

  // What is wrong, at the fields. After a refused command the first of them is brought into sight, whatever hides it.
  async function refused(text) {
    const {fields, insist, picture, language, form} = JSON.parse(text);
    const keeps = !insist && (picture === false || looked < insisted); // A look ahead from before knows less.
    if (insist) insisted++;
    const mine = ++refusals;
    for (const old of document.querySelectorAll('.refused')) {
      if (old.id.startsWith('train-') !== (form === 'train')) continue; // Of the other form on this page.
      // What a refused start or upload said of the picture stays true, and is said in the page's language.
      const stays = keeps && ['picture', 'pictures'].includes(old.id) && old.querySelector('.refusal')?.lang === framepack.language();
      if (!stays) clear(old);
    }
    const names = Object.keys(fields);
    if (insist && names.some(name => !place(name)?.offsetParent)) {
      openAdvanced(form === 'train' ? '#train-advanced' : '#advanced');
      await framepack.later(300);
    }
    // What was said meanwhile is newer, but for the picture, of which only a refused start speaks.
    for (const name of names) if (mine === refusals || ['picture', 'pictures'].includes(name)) point(place(name), fields[name], language);
    if (insist) show(place(names[0]));
  }

  function openAdvanced(fold = '#advanced') {
    if (!document.querySelector(`${fold} .group`)?.offsetParent) document.querySelector(`${fold} > button`)?.click();
  }

  function place(name) {
    return document.getElementById(name) || document.getElementById('field-' + name);
  }

  // Of slots those that are empty; where they stand in time is another field.
  function entries(place) {
    return place.querySelectorAll('input:not([type=file], [data-slots] *), textarea, .slot-picture:not(:has(img))');
  }

  function point(place, words, lang) {
    if (!place) return;
    clear(place);
    const told = document.createElement('p');
    Object.assign(told, {className: 'refusal', id: 'refusal-' + place.id, textContent: words, lang});
    told.setAttribute('role', 'alert');
    place.classList.add('refused');
    place.append(told);
    for (const entry of entries(place)) {
      entry.setAttribute('aria-invalid', 'true');
      entry.setAttribute('aria-describedby', told.id);
    }
  }

  function clear(place) {
    if (!place) return;
    place.classList.remove('refused');
    place.querySelector('.refusal')?.remove();
    for (const entry of place.querySelectorAll('[aria-invalid]')) {
      entry.removeAttribute('aria-invalid');
      entry.removeAttribute('aria-describedby');
    }
  }

  function show(place) {
    place?.scrollIntoView({block: 'center', behavior: 'smooth'});
    if (place) (entries(place)[0] ?? place.querySelector('button'))?.focus({preventScroll: true});
  }

  // The part of the picture that the video shows, as a frame over it, drawn anew whenever the place has another size: when
  // its tab comes back, too. A picture on a hidden tab has none.
  const sized = new ResizeObserver(() => frame());
  let watched;
  function frame() {
    const zone = place('picture');
    if (zone && zone !== watched) sized.observe(watched = zone);
    const image = document.querySelector('#picture .image-frame img');
    const seen = document.querySelector('#framing [data-seen]')?.dataset.seen.split(' ').map(Number);
    const there = document.querySelector('#picture .crop');
    if (image && !image.naturalWidth) image.addEventListener('load', frame, {once: true});
    if (!image?.naturalWidth || !image.clientWidth || !seen || Math.min(...seen) > 0.98) return there?.remove();
    const scale = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
    const shown = Math.min(scale, getComputedStyle(image).objectFit === 'scale-down' ? 1 : scale);
    const [width, height] = [image.naturalWidth * shown * seen[0], image.naturalHeight * shown * seen[1]];
    const box = there ?? document.createElement('div');
    box.className = 'crop';
    Object.assign(box.style, {
      width: width + 'px', height: height + 'px',
      left: image.offsetLeft + (image.clientWidth - width) / 2 + 'px',
      top: image.offsetTop + (image.clientHeight - height) / 2 + 'px',
    });
    image.parentElement.append(box);
  }

  // A file that is dropped anywhere is taken by the place for files that is in sight; the page never leaves for it.
  // All go the same way, those too that fall on the place itself.
  function dropped(event) {
    const files = [...event.dataTransfer?.files ?? []];
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation();
    if (awaited.size) return;
    event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true}));
    const zone = ZONES.map(one => document.querySelector(one)).find(one => one?.offsetParent);
    if (zone) hand(zone, files);
    else take(files, framepack.slotAt(event));
  }

  async function take(files, slot) {
    document.querySelector('[role=tab]')?.click();
    const pictures = files.filter(file => file.type.startsWith('image/'));
    const several = framepack.isOneFrame();
    const left = files.filter(file => several ? !pictures.includes(file) : file !== pictures[0]).map(file => file.name).join(', ');
    if (left) note(words[pictures.length && !several ? 'generate.one_picture' : 'generate.no_image'].replace('{names}', left));
    if (several) return framepack.takeIn(pictures, slot);
    const [picture] = pictures;
    const refusal = picture && await refusalOf(picture);
    if (refusal) note(refusal);
    else if (picture) hand(place('picture'), [picture]);
  }

  // Gradio lets go of the picture that is there before the server has judged the next; so the server is asked first. The
  // browser could not tell: it may not know a format that the server reads.
  async function refusalOf(picture) {
    if (!place('picture').querySelector('img')) return '';
    const form = new FormData();
    form.append('files', picture);
    try {
      const answer = await fetch('gradio_api/upload', {method: 'POST', body: form});
      return answer.ok ? '' : await answer.text();
    } catch {
      return words['page.not_sent'];
    }
  }

  async function hand(zone, files) {
    const input = await inputOf(zone);
    if (!input) return;
    const data = new DataTransfer();
    for (const file of input.multiple ? files : files.slice(0, 1)) data.items.add(file);
    input.files = data.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  }

  // A place that is for one file and has it, or is just getting it, takes another once it has been emptied.
  async function inputOf(zone) {
    for (let tries = 0; tries < 100; tries++) {
      const input = zone.querySelector('input[type=file]');
      if (input) return input;
      zone.querySelector('.icon-button-wrapper button')?.click();
      await framepack.later(50);
    }
  }

  // A short message of the page's own, where Gradio's stand.
  function note(text) {
    document.querySelector('.note')?.remove();
    const told = document.createElement('p');
    Object.assign(told, {className: 'note', textContent: text});
    told.setAttribute('role', 'status');
    document.body.append(told);
    setTimeout(() => told.remove(), 6000);
  }

  // Gradio shows a refused upload with the number of the answer; here it stands at the place that refused.
  function uploadRefused() {
    for (const told of document.querySelectorAll('.toast-message-text')) {
      const [, reason] = told.textContent.match(/^HTTP \d+: ([^]*)/) ?? [];
      const zone = ['#picture', ...ZONES].map(one => document.querySelector(one)).find(one => one?.offsetParent);
      if (!reason || !zone) continue;
      told.textContent = reason;
      clear(zone);
      point(zone, reason, framepack.language());
      told.closest('.toast-body').querySelector('.toast-close')?.click();
    }
  }

  // What was said of one file does not hold for the next.
  function chosen(event) {
    if (event.target.matches?.('input[type=file]')) clear(event.target.closest('.refused'));
  }

  // Gradio names a place for files otherwise than the words in it do; the words are its name.
  function named() {
    for (const zone of document.querySelectorAll('button[aria-dropeffect]')) zone.removeAttribute('aria-label');
  }

  function startByKey(event) {
    if (awaited.size || event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    const button = ['#start', '#save', '#start-anew'].map(one => document.querySelector(one)).find(one => one?.offsetParent);
    if (!button) return;
    event.preventDefault();
    button.click();
  }

  document.addEventListener('framepack-news', event => {
    ({queued, words} = event.detail);
    goesOn(event.detail.run);
    for (const said of document.querySelectorAll(':is(#said, #train-said) [data-job]')) said.hidden = !queued.includes(Number(said.dataset.job));
    document.documentElement.style.setProperty('--drop-file', JSON.stringify(words['generate.drop_file']));
    mark();
  });
  document.addEventListener('framepack-shown', named);
  document.addEventListener('dragover', event => event.preventDefault());
  document.addEventListener('drop', dropped, true);
  document.addEventListener('change', chosen, true);
  document.addEventListener('keydown', startByKey);
  new MutationObserver(uploadRefused)
    .observe(document.documentElement, {childList: true, characterData: true, subtree: true});
  came();
  Object.assign(window.framepack ??= {}, {keep, formNow, lookAhead, draft, came, open, edits, refused, frame, note, openAdvanced});
})();
