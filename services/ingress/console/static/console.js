// The pages work without this file. It makes them live, asks in dialogs, copies, and takes single keys.
const { body, documentElement: root } = document, { dataset: set } = body;
const $ = (q, from = document) => from.querySelector(q), $$ = (q) => [...document.querySelectorAll(q)];
root.classList.add('has-js');
const say = (text) => { $('#said').textContent = text; };
const parse = (html) => Object.assign(document.createElement('template'), { innerHTML: html }).content.firstElementChild;
// patch changes only what differs, so that focus, selection and open details stay.
const patch = (old, now) => {
  if (old.isEqualNode(now)) return;
  const same = old.nodeType === 1 && now.nodeType === 1 && old.tagName === now.tagName && old.childNodes.length === now.childNodes.length;
  if (!same) { old.replaceWith(now); return; }
  for (const { name } of [...old.attributes]) if (!now.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [from, to] = [[...old.childNodes], [...now.childNodes]];
  from.forEach((node, i) => patch(node, to[i]));
};
const download = () => { const file = $('[data-download] [data-file]'); if (file) { delete file.closest('[data-download]').dataset.download; location.href = file.href; } };
let source, timer;
const live = (on) => {
  const stale = $('#stale'), lamp = $('#live');
  if (lamp) { lamp.hidden = !on; lamp.textContent = lamp.dataset.text; }
  if (on === stale.hidden) return;
  stale.hidden = on;
  stale.textContent = stale.dataset.text.replace('{time}', new Date().toLocaleTimeString(root.lang));
  $('#rows, #part')?.classList.toggle('old', !on);
};
const on = {
  row(data) { const now = parse(data); const old = document.getElementById(now.id); if (old) patch(old, now); },
  part(data) { patch($('#part'), parse(data)); download(); },
  counts(data) { for (const [state, n] of Object.entries(JSON.parse(data))) { const at = $(`[data-count="${state}"]`); if (at) at.textContent = n.toLocaleString('en'); } },
  newer(data) { const a = $('#newer'); a.textContent = data; a.hidden = !data; if (data) say(data); },
  end(data) { say(data); set.events = ''; source.close(); },
};
const connect = () => {
  clearTimeout(timer);
  if (!set.events || document.hidden || source && source.readyState < 2) return;
  source = new EventSource(set.events);
  source.onopen = () => live(true);
  source.onerror = () => { live(false); if (source.readyState === 2) timer = setTimeout(() => { if ($('.shared')) location.reload(); else connect(); }, 15000); };
  for (const name in on) source.addEventListener(name, (e) => { live(true); on[name](e.data); });
};
document.addEventListener('visibilitychange', () => { if (document.hidden) source?.close(); else connect(); });
addEventListener('pagehide', () => source?.close());
addEventListener('pageshow', connect);
connect();
download();

const copy = async (button, text) => { await navigator.clipboard.writeText(text); const was = button.textContent; button.textContent = '✓'; setTimeout(() => { button.textContent = was; }, 1500); };
document.addEventListener('click', async (e) => {
  const at = (q) => e.target.closest(q);
  let hit;
  if ((hit = at('[data-copy]'))) copy(hit, hit.dataset.copy);
  else if ((hit = at('[data-copy-above]'))) copy(hit, hit.previousElementSibling.textContent);
  else if ((hit = at('dialog [data-close]'))) { e.preventDefault(); hit.closest('dialog').close(); }
  else if ((hit = at('[data-dialog]')) && !e.ctrlKey && !e.metaKey && !e.shiftKey) {
    e.preventDefault();
    const answer = await fetch(hit.href), page = new DOMParser().parseFromString(await answer.text(), 'text/html'), ask = $('main .dialog', page);
    if (!answer.ok || !ask) { location.href = hit.href; return; }
    const dialog = $('#dialog');
    dialog.replaceChildren(ask);
    dialog.setAttribute('aria-label', $('h1', ask).textContent);
    dialog.showModal();
  }
});
document.addEventListener('keydown', (e) => {
  if (set.keys === 'off' || e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, select, textarea, dialog')) return;
  const rows = $$('[data-row]'), step = (n) => rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(document.activeElement) + n))]?.focus();
  const act = { '/': () => $('[data-key="/"]')?.focus(), j: () => step(1), k: () => step(-1), n: () => $('[data-key="n"]')?.click(), '?': () => $('#help')?.showModal() }[e.key];
  if (act) { e.preventDefault(); act(); }
});

// Times on a share page are in the reader's zone; the console's server writes them so.
if ($('.shared')) for (const time of $$('time')) time.textContent = new Date(time.dateTime).toLocaleString(root.lang);
else if ('asksZone' in set && !sessionStorage.zoned) {
  sessionStorage.zoned = 1;
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  if (timeZone && timeZone !== 'UTC') {
    const answer = await fetch(`${set.base}/console/set`, { method: 'POST', redirect: 'manual', body: new URLSearchParams({ zone: timeZone }) });
    if (answer.type === 'opaqueredirect' && !$('form[method="post"] input:not([type="hidden"]):focus')) location.reload();
  }
}
