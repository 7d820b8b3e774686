// Tells that a video is done or has failed, by a sound or a notification, as somebody has chosen in this browser.
(() => {
  const NOTES = [[660, 0], [880, 0.16]]; // hertz, and when
  let last; // When the newest job that ended did so; unknown before the first news.
  let words = {};

  function chosen() {
    return framepack.remembered('when_done') ?? '';
  }

  async function whenDone(wishes) {
    const before = chosen();
    framepack.remember('when_done', wishes.join(' '));
    if (wishes.includes('sound') && !before.includes('sound')) sound();
    if (wishes.includes('notification') && await permission() !== 'granted') framepack.note(words['generate.notification_denied']);
  }

  async function permission() {
    if (!('Notification' in window)) return 'denied';
    return Notification.permission === 'default' ? Notification.requestPermission() : Notification.permission;
  }

  function sound() {
    const audio = new AudioContext();
    for (const [pitch, at] of NOTES) {
      const tone = audio.createOscillator(), volume = audio.createGain();
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0.15, audio.currentTime + at);
      volume.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + at + 0.4);
      tone.connect(volume).connect(audio.destination);
      tone.start(audio.currentTime + at);
      tone.stop(audio.currentTime + at + 0.4);
      tone.onended = () => { if (at) audio.close(); };
    }
  }

  function tell(text) {
    if (chosen().includes('sound')) sound();
    if (chosen().includes('notification') && window.Notification?.permission === 'granted') notify(text);
  }

  // Chrome on Android allows notifications and then takes none from a page.
  function notify(text) {
    try { new Notification('FramePack', {body: text}); } catch { framepack.note(words['generate.notification_denied']); }
  }

  document.addEventListener('framepack-news', event => {
    const {ended} = event.detail;
    ({words} = event.detail);
    const isNew = last !== undefined && ended.at > last;
    last = Math.max(last ?? 0, ended.at); // First of all, so that nothing is told twice, whatever fails.
    if (isNew) tell(ended.words);
  });
  Object.assign(window.framepack ??= {}, {whenDone, whenDoneIs: chosen});
})();
