// Below a field that has another value than its default: what that is, on a button that brings it back.
(() => {
  let defaults = {}; // By field: the value, and how it is told.
  let wanted;

  function resets(told) {
    defaults = JSON.parse(told || '{}');
    show();
  }

  // Gradio mounts fields when they are first in sight.
  function show() {
    for (const old of document.querySelectorAll('[data-reset]')) if (!(old.dataset.reset in defaults)) old.remove();
    for (const [name, {words}] of Object.entries(defaults)) {
      const button = document.getElementById('reset-' + name) ?? made(name);
      if (button && button.textContent !== words) button.textContent = words;
    }
  }

  function made(name) {
    const place = document.getElementById('field-' + name)?.closest('.with-reset');
    if (!place) return null;
    const button = Object.assign(document.createElement('button'), {type: 'button', id: 'reset-' + name, className: 'reset'});
    button.dataset.reset = name;
    place.append(button);
    return button;
  }

  // For the fields of these names: the default for the one that is to be set back; all others stay.
  function back(names) {
    return names.map(name => name === wanted ? defaults[name]?.value : undefined);
  }

  document.addEventListener('click', event => {
    wanted = event.target.closest?.('[data-reset]')?.dataset.reset;
    if (wanted) document.dispatchEvent(new Event('framepack-reset'));
  });
  document.addEventListener('framepack-shown', show);
  Object.assign(window.framepack ??= {}, {resets, back});
})();
