// The LoRAs of the form: those that are chosen, each with its weight, and which boxes of the shelf's list are ticked.
// The form's hidden component holds them as JSON. Whoever fills it calls loras(), and what is changed here goes into it.
(() => {
  const ROWS = 24;
  const LISTS = '#lora-list, #average-files';
  let chosen = [];
  let words = {};
  let version;
  let isWatching = false;

  function loras(text) {
    try { chosen = JSON.parse(text || '[]'); } catch { chosen = []; }
    show();
  }

  function change() {
    show();
    document.dispatchEvent(new Event('framepack-loras'));
  }

  function show() {
    const place = document.querySelector('[data-chosen]');
    if (place) draw(place);
    for (const box of document.querySelectorAll('[data-lora]')) box.checked = chosen.some(one => isOf(one, box));
  }

  // What came from a recipe means a content, under whatever name; what was ticked means a name.
  function isOf(one, {dataset}) {
    return one.sha256 && dataset.content ? one.sha256 === dataset.content : one.name === dataset.lora;
  }

  // Rows stay as long as they are the same LoRAs, so that a weight can be typed.
  function draw(place) {
    const drawn = JSON.stringify([chosen.map(one => one.name), words['generate.loras']]);
    if (place.drawn !== drawn) {
      place.drawn = drawn;
      place.setAttribute('aria-label', words['generate.loras'] ?? '');
      place.replaceChildren(...chosen.map(row));
    }
    [...place.children].forEach((row, at) => weigh(row, chosen[at]));
  }

  function row(lora) {
    const item = document.createElement('li');
    const name = Object.assign(document.createElement('bdi'), {textContent: lora.name, title: lora.name});
    const range = entry('range', lora, {min: 0, max: 2});
    const exact = entry('number', lora, {min: -10, max: 10});
    const end = entry('number', lora, {min: -10, max: 10, placeholder: '→'}, 'weight_at_end');
    end.title = words['generate.lora_weight_at_end'] ?? '';
    const remove = Object.assign(document.createElement('button'), {type: 'button', className: 'q-icon', textContent: '✕'});
    remove.setAttribute('aria-label', `${words['generate.lora_remove']}: ${lora.name}`);
    remove.addEventListener('click', () => { chosen.splice(place(item), 1); change(); });
    item.append(name, range, exact, end, remove);
    return item;
  }

  // The weight at the end is left out where it is the same.
  function entry(type, lora, bounds, field = 'weight') {
    const made = Object.assign(document.createElement('input'), {type, step: 0.05, ...bounds});
    made.dataset.field = field;
    made.setAttribute('aria-label', `${words[`generate.lora_${field}`]}: ${lora.name}`);
    made.addEventListener('input', () => {
      const at = place(made.parentElement);
      chosen[at] = {...chosen[at], [field]: Number.isFinite(made.valueAsNumber) ? made.valueAsNumber : made.value};
      if (field !== 'weight' && made.value === '' && !made.validity.badInput) delete chosen[at][field];
      change();
    });
    return made;
  }

  function place(item) {
    return [...item.parentElement.children].indexOf(item);
  }

  // What is being typed stays as it is typed.
  function weigh(row, lora) {
    for (const input of row.querySelectorAll('input')) {
      const weight = lora[input.dataset.field] ?? '';
      if (input !== document.activeElement || input.valueAsNumber !== weight && input.type === 'range') input.value = weight;
    }
  }

  function ticked(event) {
    const name = event.target.dataset?.lora;
    if (name === undefined) return;
    chosen = event.target.checked ? [...chosen, {name, weight: 1}] : chosen.filter(one => !isOf(one, event.target));
    change();
  }

  // What was trained is used beside what is chosen; the server shows the form.
  function used(event) {
    const name = event.target.closest?.('[data-act="use_lora"]')?.dataset.value;
    if (!name || chosen.some(one => one.name === name)) return;
    chosen = [...chosen, {name, weight: 1}];
    change();
  }

  // The list is asked for as long as somebody can see it.
  function watch() {
    const inSight = [...document.querySelectorAll(LISTS)].some(one => one.offsetParent);
    if (inSight === isWatching) return;
    isWatching = inSight;
    framepack.wish({shelf: inSight ? ROWS : ''});
  }

  document.addEventListener('framepack-news', event => {
    const {shelf} = event.detail;
    words = event.detail.words;
    if (version !== undefined && version !== shelf && (chosen.length || isWatching)) document.dispatchEvent(new Event('framepack-shelf'));
    version = shelf;
  });
  document.addEventListener('framepack-shown', show);
  document.addEventListener('framepack-answered', watch);
  document.addEventListener('click', () => framepack.later(200).then(watch));
  document.addEventListener('change', ticked);
  document.addEventListener('click', used, true);
  Object.assign(window.framepack ??= {}, {loras, chosenLoras: () => JSON.stringify(chosen)});
})();
