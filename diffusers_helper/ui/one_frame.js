// One picture: what stands in the slots and where in time, as the form's components have it. one_frame_slots.js and
// one_frame_ruler.js show it and change it. Whoever fills the components calls oneFrameIs(), and what is changed here goes
// into them.
(() => {
  const WAIT = 500; // So long what comes back from the components may be older than what was done last.
  const INDEX = /^\d{1,3}(;\d{1,3})*$/;
  const EMPTY = {picture: '', mask: ''};
  let state = {slots: [], target: 9, places: [0], post: true, two_x: true, four_x: true, window: 9};
  let changed = -Infinity;
  let latest;
  let timer;

  function oneFrameIs(pictures, target, index, post, two_x, four_x, window) {
    latest = {
      slots: slotsIn(pictures),
      target: Number.isFinite(target) ? target : state.target,
      places: INDEX.test(index ?? '') ? index.split(';').map(Number) : state.places,
      post, two_x, four_x,
      window: Number.isFinite(window) ? window : state.window,
    };
    clearTimeout(timer);
    timer = setTimeout(settle, Math.max(changed + WAIT - performance.now(), 0));
  }

  function settle() {
    if (JSON.stringify(latest) === JSON.stringify(state)) return;
    state = latest;
    draw();
  }

  function slotsIn(text) {
    try { return JSON.parse(text || '[]'); } catch { return []; }
  }

  function oneFrame() {
    const {slots, target, places, post, two_x, four_x} = state;
    return [JSON.stringify(slots), target, places.join(';'), post, two_x, four_x];
  }

  // ``settled``: whether the components are to have it yet; not in the middle of a drag.
  function place(changes, settled = true) {
    state = {...state, ...changes};
    clearTimeout(timer);
    changed = performance.now();
    draw();
    if (settled) document.dispatchEvent(new Event('framepack-one-frame'));
  }

  function placed() {
    const slots = state.places.map((_, at) => state.slots[at] ?? EMPTY);
    return {...state, slots: [...slots, ...state.slots.slice(slots.length)], count: slots.length};
  }

  function draw() {
    document.dispatchEvent(new Event('framepack-placed'));
  }

  // The picture goes with the kind: into the first slot where all are empty, and from there where no start picture is.
  function kindIs(kind, picture, pictures) {
    const [slots, given] = [slotsIn(pictures), nameOf(picture?.path ?? '')];
    if (kind === 'one_frame' && given && !slots.some(slot => slot.picture)) {
      return [picture, JSON.stringify([{picture: given, mask: ''}])];
    }
    if (kind !== 'one_frame' && !picture && slots[0]?.picture) return [fileOf(slots[0].picture), pictures];
    return [picture, pictures];
  }

  // An upload's name is the last two parts of its path; the server knows it by that, and as no other file.
  function nameOf(path) {
    return path.split(/[\\/]/).slice(-2).join('/');
  }

  function fileOf(name) {
    const path = `${said().folder}/${name}`;
    return {path, url: address(name), orig_name: name.split('/')[1], meta: {_type: 'gradio.FileData'}};
  }

  function address(name) {
    return said().address + name.split('/').map(encodeURIComponent).join('/');
  }

  // The texts in the page's language, and where uploads are.
  let told = {words: {}, address: '', folder: ''};
  let text;
  function said() {
    const place = document.querySelector('[data-one-frame]');
    if (place && place.dataset.oneFrame !== text) told = JSON.parse(text = place.dataset.oneFrame);
    return told;
  }

  // Sends a file; answers with its name, or why it is refused.
  async function upload(file) {
    const form = new FormData();
    form.append('files', file);
    try {
      const answer = await fetch('gradio_api/upload', {method: 'POST', body: form});
      return answer.ok ? {name: nameOf((await answer.json())[0])} : {refusal: await answer.text()};
    } catch {
      return {refusal: said().words.not_sent};
    }
  }

  function isOneFrame() {
    return Boolean(document.querySelector('#field-kind input[value=one_frame]:checked'));
  }

  function make(tag, properties = {}, ...children) {
    const {data = {}, aria = {}, ...others} = properties;
    const made = Object.assign(document.createElement(tag), others);
    Object.assign(made.dataset, data);
    for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
    made.append(...children);
    return made;
  }

  document.addEventListener('framepack-shown', draw);
  Object.assign(window.framepack ??= {}, {
    oneFrame, oneFrameIs, isOneFrame, kindIs, place, placed, said, address, upload, make,
  });
})();
