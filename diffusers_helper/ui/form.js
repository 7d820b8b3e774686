// The form in the browser: its draft, the job it edits, and what is wrong with it, shown at the fields.
(() => {
  const DRAFT = 'framepack.form';
  let isOpen = false; // Until the draft was read, nothing is written over it.
  let edited = 0;
  let queued = [];

  function later(wait) {
    return new Promise(done => setTimeout(done, wait));
  }

  // Each tab has its own draft; a new tab begins with the newest of all. Private windows may refuse both.
  function keep(run, editing, values) {
    if (editing || !isOpen) return;
    const picture = values.picture?.path?.split(/[\\/]/).slice(-2).join('/') ?? null;
    const text = JSON.stringify({run, values: {...values, picture}});
    for (const store of ['sessionStorage', 'localStorage']) {
      try { window[store].setItem(DRAFT, text); } catch { /* then it lasts as long as the page */ }
    }
  }

  function draft() {
    isOpen = true;
    try { return sessionStorage.getItem(DRAFT) ?? localStorage.getItem(DRAFT) ?? ''; } catch { return ''; }
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
    const {fields, insist, picture} = JSON.parse(text);
    const keepsPicture = !insist && picture === false; // What a refused start said of it stays true.
    for (const old of document.querySelectorAll('.refused')) {
      if (!keepsPicture || old.id !== 'picture') clear(old);
    }
    const names = Object.keys(fields);
    if (insist && names.some(name => !place(name)?.offsetParent)) {
      document.querySelector('#advanced > button')?.click();
      await later(300);
    }
    for (const name of names) point(place(name), fields[name]);
    if (insist) show(place(names[0]));
  }

  function place(name) {
    return document.getElementById(name) || document.getElementById('field-' + name);
  }

  function entries(place) {
    return place.querySelectorAll('input:not([type=file]), textarea');
  }

  function point(place, words) {
    if (!place) return;
    const told = document.createElement('p');
    Object.assign(told, {className: 'refusal', id: 'refusal-' + place.id, textContent: words});
    told.setAttribute('role', 'alert');
    place.classList.add('refused');
    place.append(told);
    for (const entry of entries(place)) {
      entry.setAttribute('aria-invalid', 'true');
      entry.setAttribute('aria-describedby', told.id);
    }
  }

  function clear(place) {
    place.classList.remove('refused');
    place.querySelector('.refusal')?.remove();
    for (const entry of entries(place)) {
      entry.removeAttribute('aria-invalid');
      entry.removeAttribute('aria-describedby');
    }
  }

  function show(place) {
    place?.scrollIntoView({block: 'center', behavior: 'smooth'});
    (place?.querySelector('input:not([type=file]), textarea') || place?.querySelector('button'))
      ?.focus({preventScroll: true});
  }

  document.addEventListener('framepack-news', event => {
    queued = event.detail.queued;
    mark();
  });
  Object.assign(window.framepack ??= {}, {keep, draft, edits, refused});
})();
