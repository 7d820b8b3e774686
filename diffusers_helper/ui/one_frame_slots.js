// The slots: a picture for each place in time, with its mask. Pictures are chosen, dropped and pasted, put in another order
// and taken out; places in time stay in their order.
(() => {
  const MOST = 20;
  const SECOND_PLACE = 10;
  const {make} = framepack;
  let busy = new Set();
  let dragged = -1;

  function draw() {
    const list = document.querySelector('[data-slots]');
    const {words} = framepack.said();
    if (!list || !words.slots) return;
    const {count} = framepack.placed();
    const drawn = JSON.stringify([count, words]);
    if (list.drawn !== drawn) {
      list.drawn = drawn;
      list.setAttribute('aria-label', words.slots);
      list.replaceChildren(...Array.from({length: count}, (_, at) => row(at, count, words)));
      const add = list.parentElement.querySelector('[data-add]');
      add.textContent = words.add;
      add.hidden = count >= MOST;
    }
    [...list.children].forEach((item, at) => fillIn(item, at, words));
  }

  function row(at, count, words) {
    const role = at ? words.role : words.role_first;
    const handle = make('b', {draggable: count > 1}, `${at + 1} · ${role}`);
    const time = make('input', {type: 'number', min: 0, max: 999, step: 1});
    time.setAttribute('aria-label', `${words.time}: ${named(words.control, at)}`);
    const picture = make('button', {type: 'button', className: 'slot-picture', data: {do: 'choose'}});
    const acts = ['back', 'ahead', 'paint_mask', 'mask_file', 'mask_none', 'clear_slot'].map(name => act(name, at, words));
    const head = make('div', {className: 'slot-head'}, handle, ...acts.slice(0, 2), acts[5]);
    const label = make('label', {className: 'slot-time'}, make('span', {textContent: words.time}), time);
    const masks = make('div', {className: 'slot-acts'}, ...acts.slice(2, 5));
    return make('li', {className: 'slot', data: {slot: at}}, picture, make('div', {className: 'slot-words'}, head, label, masks));
  }

  function act(name, at, words) {
    const icons = {back: '↑', ahead: '↓', clear_slot: '✕'};
    const button = make('button', {type: 'button', className: icons[name] ? 'q-icon' : 'q-button', data: {do: name}});
    button.textContent = icons[name] ?? words[name];
    button.setAttribute('aria-label', `${words[name]}: ${named(words.control, at)}`);
    button.title = icons[name] ? words[name] : '';
    return button;
  }

  function named(text, at) {
    return text.replace('{number}', at + 1);
  }

  function fillIn(item, at, words) {
    const {slots, places, count} = framepack.placed();
    const {picture, mask} = slots[at];
    const time = item.querySelector('input');
    if (time !== document.activeElement || time.valueAsNumber !== places[at] && time.value !== '') time.value = places[at];
    const shown = item.querySelector('.slot-picture');
    item.classList.toggle('busy', busy.has(at));
    shown.setAttribute('aria-label', `${words.choose}: ${named(words.control, at)}`);
    show(shown, picture, mask, words);
    const has = {back: at > 0, ahead: at < count - 1, paint_mask: picture, mask_file: picture, mask_none: mask, clear_slot: picture || count > 1};
    for (const [name, is] of Object.entries(has)) item.querySelector(`[data-do=${name}]`).hidden = !is;
    const clear = item.querySelector('[data-do=clear_slot]');
    clear.title = picture ? words.clear_slot : words.take_away;
    clear.setAttribute('aria-label', `${clear.title}: ${named(words.control, at)}`);
  }

  // What the mask leaves out is seen under stripes: the picture again, as much of it as is used, lies over them.
  function show(place, picture, mask, words) {
    const drawn = [picture, mask, words.drop].join();
    if (place.drawn === drawn) return;
    place.drawn = drawn;
    if (!picture) return place.replaceChildren(make('span', {textContent: words.drop}));
    const all = make('img', {src: framepack.address(picture), alt: '', draggable: false});
    all.addEventListener('error', () => place.replaceChildren(make('span', {textContent: words.not_shown})));
    const shot = make('span', {className: 'slot-shot'}, all);
    place.replaceChildren(shot);
    if (mask) framepack.cutOut(all.src, framepack.address(mask)).then(used => used && shot.append(used), () => {});
  }

  function change(at, slot, more = {}) {
    const {slots} = framepack.placed();
    framepack.place({slots: slots.map((one, place) => place === at ? {...one, ...slot} : one), ...more});
  }

  function move(at, to) {
    const {slots, count} = framepack.placed();
    if (to < 0 || to >= count || at === to) return;
    slots.splice(to, 0, ...slots.splice(at, 1));
    framepack.place({slots});
  }

  function clear(at) {
    const {slots, places, count} = framepack.placed();
    if (slots[at].picture) return change(at, {picture: '', mask: ''});
    if (count > 1) framepack.place({slots: slots.toSpliced(at, 1), places: places.toSpliced(at, 1)});
  }

  function add() {
    const {slots, places, count} = framepack.placed();
    const last = Math.max(...places);
    const next = count === 1 && last < SECOND_PLACE ? SECOND_PLACE : Math.min(last + 1, 999);
    framepack.place({places: [...places, next], slots: slots.toSpliced(count, 0, {picture: '', mask: ''})});
    return count;
  }

  // Files come into the slot they were meant for, the rest into what is empty, and then into new places.
  async function takeIn(files, at) {
    for (const file of files) {
      const {slots, count} = framepack.placed();
      const empty = slots.slice(0, count).findIndex(slot => !slot.picture);
      const to = at ?? (empty >= 0 ? empty : count === 1 && files.length === 1 ? 0 : count < MOST ? add() : -1);
      at = undefined;
      if (to < 0) return;
      const name = await sent(file, to);
      if (name) change(to, {picture: name, mask: ''});
    }
  }

  async function sent(file, at) {
    busy.add(at);
    draw();
    const {name, refusal} = await framepack.upload(file);
    busy.delete(at);
    draw();
    if (refusal) framepack.note(refusal);
    return name;
  }

  function ask(taken) {
    const input = make('input', {type: 'file', accept: 'image/*'});
    input.addEventListener('change', () => input.files[0] && taken(input.files[0]));
    input.click();
  }

  async function takeMask(file, at) {
    const name = await sent(file, at);
    if (name) change(at, {mask: name});
  }

  function pressed(event) {
    const button = event.target.closest?.('[data-slots] [data-do], [data-add]');
    if (!button) return;
    if (button.dataset.add !== undefined) return add();
    const at = Number(button.closest('[data-slot]').dataset.slot);
    const by = {back: -1, ahead: 1}[button.dataset.do];
    if (by) {
      move(at, at + by);
      document.querySelector(`[data-slot="${at + by}"] [data-do=${button.dataset.do}]:not([hidden])`)?.focus();
    }
    else if (button.dataset.do === 'choose') ask(file => takeIn([file], at));
    else if (button.dataset.do === 'mask_file') ask(file => takeMask(file, at));
    else if (button.dataset.do === 'mask_none') change(at, {mask: ''});
    else if (button.dataset.do === 'clear_slot') clear(at);
    else if (button.dataset.do === 'paint_mask') paint(at);
  }

  async function paint(at) {
    const {picture, mask} = framepack.placed().slots[at];
    const painted = await framepack.paintMask(framepack.address(picture), mask && framepack.address(mask), at);
    if (painted) await takeMask(painted, at);
    document.querySelector(`[data-slot="${at}"] [data-do=paint_mask]`)?.focus();
  }

  function typed(event) {
    const slot = event.target.closest?.('[data-slots] .slot');
    if (!slot || event.target.type !== 'number') return;
    const index = event.target.valueAsNumber;
    if (!Number.isInteger(index) || index < 0 || index > 999) return;
    const {places} = framepack.placed();
    framepack.place({places: places.with(Number(slot.dataset.slot), index)});
  }

  function slotAt(event) {
    const slot = event.target.closest?.('[data-slots] [data-slot]');
    return slot ? Number(slot.dataset.slot) : undefined;
  }

  // Slots are put in another order by their titles; files that are dropped come by form.js.
  function dragging(event) {
    if (!event.target.matches?.('.slot-head b')) return;
    dragged = slotAt(event);
    event.dataTransfer.setData('text/plain', '');
    event.dataTransfer.effectAllowed = 'move';
    event.dataTransfer.setDragImage(event.target.closest('.slot'), 8, 8);
  }

  function over(event) {
    for (const slot of document.querySelectorAll('.slot.over')) slot.classList.remove('over');
    event.target.closest?.('.slot')?.classList.toggle('over', event.type === 'dragover');
  }

  function dropped(event) {
    over(event);
    const at = slotAt(event);
    if (dragged >= 0 && at !== undefined) {
      event.preventDefault();
      move(dragged, at);
    }
    dragged = -1;
  }

  function pasted(event) {
    const files = [...event.clipboardData?.files ?? []].filter(file => file.type.startsWith('image/'));
    if (!files.length || !framepack.isOneFrame() || !document.querySelector('[data-slots]')?.offsetParent) return;
    event.preventDefault();
    takeIn(files, slotAt({target: document.activeElement}));
  }

  document.addEventListener('framepack-placed', draw);
  document.addEventListener('click', pressed);
  document.addEventListener('input', typed);
  document.addEventListener('dragstart', dragging);
  document.addEventListener('dragover', over);
  document.addEventListener('dragend', event => { over(event); dragged = -1; });
  document.addEventListener('drop', dropped);
  document.addEventListener('paste', pasted);
  Object.assign(framepack, {takeIn, slotAt});
})();
