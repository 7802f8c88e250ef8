// Cases of the pages in Chromium. Each page must have no finding of axe, no violation of its policy and no
// error of a script.
import assert from 'node:assert/strict';
import { spawn, execFileSync } from 'node:child_process';
import http from 'node:http';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const { SHEAF: sheaf, CHROMIUM: executablePath, TEMPFOLDER: temp, SHOTS: shots, REPOSITORY: repository } = process.env;
const port = 20000 + process.pid % 20000, base = `http://127.0.0.1:${port}`;
const keysFile = `${temp}/keys`;
const addKey = (tenant, scope) => execFileSync(sheaf, ['keys', 'add', '--api-keys', keysFile, '--tenant', tenant, '--scope', scope], { encoding: 'utf8' }).match(/sheaf_[a-z2-7]{8}_[\w-]{43}/)[0];
const until = async (what, check) => { for (let i = 0; i < 600; i++) { const x = await check(); if (x) return x; await new Promise((r) => setTimeout(r, 100)); } throw new Error(`never: ${what}`); };

// A source whose pages wait until the test lets them go.
let held = [], open = false;
const source = http.createServer((q, r) => {
  const page = Number(new URL(q.url, base).searchParams.get('page'));
  const answer = () => r.end(JSON.stringify({ errcode: 0, msg: '', data: { data: [{ id: 'No.' }, { id: page }], pagetag: { page, limit: 1, total: 20, total_page: 20 } } }));
  if (open) answer(); else if (page <= 5) setTimeout(answer, 500); else held.push(answer); // progress is reported a few times a second
}).listen(port + 1, '127.0.0.1');
const hold = () => { open = false; };
const letGo = () => { open = true; held.splice(0).forEach((answer) => answer()); };
// Proxies that put the pages under a path: one strips it, the other does not.
const proxy = (at, strip) => http.createServer((q, r) => {
  const path = strip ? q.url.replace('/ops/sheaf', '') : q.url;
  const to = http.request({ port, host: '127.0.0.1', method: q.method, path, headers: q.headers }, (a) => { r.writeHead(a.statusCode, a.headers); a.pipe(r); });
  to.on('error', () => r.destroy());
  r.on('close', () => to.destroy());
  q.pipe(to);
}).listen(at, '127.0.0.1');

const key = addKey('shop', 'operate'), other = addKey('other', 'operate'), admin = addKey('ops', 'admin');
const start = async (...flags) => {
  const p = spawn(sheaf, ['serve', '--http', `127.0.0.1:${port}`, '--data', `${temp}/data`, '--api-keys', keysFile, '--nats-listen', `127.0.0.1:${port + 4}`, ...flags], { stdio: 'ignore' });
  await until('the server is ready', () => fetch(`${base}/readyz`).then((r) => r.ok, () => false));
  return p;
};
const stop = (p) => new Promise((done) => { p.on('exit', done); p.kill(); });
const api = async (path, body, as = key) => (await (await fetch(base + path, { method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), headers: { 'X-API-Key': as } })).json()).data;
const submit = (title, url, more = {}) => api('/v1/export/http', { ext_type: 'XLSX', title, user_id: '123', source_http: { url, method: 'GET', conn: 1, param: { limit: 1 }, ...more } });

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
const problems = [];
const visitor = async (options = {}, found = problems) => {
  const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, locale: 'en', ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  page.on('console', (m) => {
    if (m.type() === 'error' && !/status of (4|503)/.test(m.text())) found.push(`${page.url()}: ${m.text()}`);
  });
  page.on('pageerror', (e) => found.push(`${page.url()}: ${e.message}`));
  page.on('dialog', (d) => { found.push(`${page.url()}: a script asked ${d.message()}`); d.dismiss(); });
  return page;
};
// The rows of a downloaded workbook. excelize reads it, where Go is there.
const hasGo = (() => { try { execFileSync('go', ['version']); return true; } catch { return false; } })();
const rowsOf = async (file) => {
  if (!hasGo) { console.log('skipped: Go is not installed, so no workbook was opened'); return null; }
  const read = ['run', '.ci/rows.go', await file.path()];
  return JSON.parse(execFileSync('go', read, { cwd: repository, encoding: 'utf8' }));
};
const everyPage = [['No.'], ...Array.from({ length: 20 }, (_, i) => [String(i + 1)])];
const assertWhole = async (file) => assert.deepEqual((await rowsOf(file)) ?? everyPage, everyPage);
const login = async (page, as = key, at = base) => { await page.goto(`${at}/console/`); await page.fill('[name=key]', as); await page.click('main form button'); await page.waitForURL(/console\/(\?|$)/); };
let count = 0;
const tags = ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'];
const clean = async (page, name, axe = true) => {
  const { violations } = axe ? await new AxeBuilder({ page }).withTags(tags).analyze() : { violations: [] };
  for (const v of violations) problems.push(`axe on ${name}: ${v.id} at ${v.nodes.map((n) => n.target).join(', ')}`);
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) problems.push(`${name} is wider than its window`);
  if (shots) await page.screenshot({ path: `${shots}/${name.replace(/\W+/g, '-')}.png`, fullPage: !name.startsWith('docs') });
  if (axe) count++;
};

// Panels of other origins, each with a policy of its own. Sheaf knows the first one alone.
const panels = [port + 5, port + 6];
const panel = (at) => http.createServer((q, r) => {
  const script = `${base}/s/progress.js`, src = new URL(q.url, base).searchParams.get('src');
  r.setHeader('Content-Type', 'text/html; charset=utf-8');
  r.setHeader('Content-Security-Policy', `default-src 'none'; script-src ${base}; connect-src ${base}`);
  r.end(src ? `<!doctype html><html lang="en"><title>Panel</title><main><h1>Panel</h1>
    <script type="module" src="${script}"></script><sheaf-progress src="${src}" label="Get it"></sheaf-progress></main>` : '');
}).listen(at, '127.0.0.1');
const panelServers = panels.map(panel);
// A source, and a receiver of callbacks, that answer with what a page must not run.
const evil = '<img src=x onerror=alert(1)><script>alert(2)</script>';
const hostile = http.createServer((q, r) => {
  q.resume();
  r.writeHead(q.method === 'GET' ? 200 : 500, { 'Content-Type': 'application/json', 'X-Evil': evil });
  r.end(JSON.stringify({ errcode: 7, msg: evil, data: null }));
}).listen(port + 7, '127.0.0.1');

const colours = ['--console-name', 'PROD', '--console-colour', 'red'];
let server = await start(...colours, '--embed-origin', `http://127.0.0.1:${panels[0]}`);
const cases = {
  async 'live progress, end and download'() {
    const { hash_key } = await submit('Live', `http://127.0.0.1:${port + 1}/`);
    const page = await visitor();
    await login(page);
    const row = page.locator(`#x-${hash_key}`);
    await row.getByText(/^[1-5]\/20$/).waitFor();
    await row.locator('a[data-row]').focus();
    letGo();
    await row.getByText('Succeeded').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Live', 'the focus stays while the row changes');
    await page.keyboard.press('Enter');
    await page.waitForURL(new RegExp(hash_key));
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download' }).click()]);
    await assertWhole(file);
    await page.goBack();
    await page.locator(`#x-${hash_key}`).waitFor();
    await page.context().close();
  },
  async 'new export, cancel in a dialog, retry'() {
    hold();
    const page = await visitor();
    await login(page);
    await page.keyboard.press('n');
    await page.waitForURL(/\/new/);
    await page.fill('[name=url]', `http://127.0.0.1:${port + 1}/again`);
    await page.fill('[name=title]', 'By hand');
    await page.fill('[name=limit]', '1');
    await page.getByRole('button', { name: 'Export', exact: true }).click();
    await page.waitForURL(/\/x\//);
    await page.getByRole('link', { name: 'Cancel' }).click();
    await page.locator('#dialog[open]').waitFor();
    await clean(page, 'the dialog');
    await page.getByRole('button', { name: 'Cancel the export' }).click();
    await page.locator('.state.cancelled').waitFor();
    letGo();
    await page.getByRole('button', { name: 'Retry' }).click();
    await page.locator('.state.succeeded').waitFor();
    await page.context().close();
  },
  async 'bulk with a count that moved'() {
    for (const n of [1, 2]) await submit(`Refused ${n}`, `http://127.0.0.1:${port + 7}/none`);
    await until('both failed', async () => (await api('/v1/export/list?state=failed')).exports.length === 2);
    const page = await visitor({ javaScriptEnabled: false });
    await login(page);
    await page.goto(`${base}/console/bulk?state=failed&action=retry`);
    await page.getByText('2 exports match').waitFor();
    await submit('Refused 3', `http://127.0.0.1:${port + 7}/none`);
    await until('three failed', async () => (await api('/v1/export/list?state=failed')).exports.length === 3);
    await page.getByRole('button', { name: 'Retry them' }).click();
    await page.getByText('has changed').waitFor();
    await page.getByRole('button', { name: 'Retry them' }).click();
    await page.getByText('3 exports run again').waitFor();
    await page.context().close();
  },
  async 'the keyboard, and a policy that holds'() {
    const found = [], page = await visitor({}, found);
    await login(page);
    const rows = page.locator('a[data-row]'), at = () => page.evaluate(() => document.activeElement.href);
    const hrefs = await rows.evaluateAll((all) => all.map((a) => a.href));
    assert.ok(hrefs.length >= 3);
    for (const [press, want] of [['j', 0], ['j', 1], ['j', 2], ['k', 1], ['k', 0], ['k', 0]]) {
      await page.keyboard.press(press);
      assert.equal(await at(), hrefs[want], `${press} goes to row ${want}`);
    }
    await page.keyboard.press('?');
    await page.locator('#help[open]').waitFor();
    await clean(page, 'the keys');
    await page.keyboard.press('Escape');
    await page.locator('#help[open]').waitFor({ state: 'detached' });
    await page.keyboard.press('/');
    await page.keyboard.type('jk?n');
    assert.equal(await page.inputValue('[name=q]'), 'jk?n', 'no key acts while one types');
    assert.deepEqual(found, []);
    await page.evaluate(() => { const s = document.createElement('script'); s.text = 'alert(3)'; document.body.append(s); });
    await until('the violation is seen', () => found.length > 0);
    assert.match(found.join(), /Content Security Policy/);
    assert.doesNotMatch(found.join(), /asked/, 'the script does not run');
    await page.context().close();
  },
  async 'what a source and a receiver of callbacks answer is text'() {
    const more = { callback: `http://127.0.0.1:${port + 7}/${encodeURIComponent(evil)}` };
    const source_http = { url: `http://127.0.0.1:${port + 7}/`, method: 'GET', conn: 1, param: { limit: 1 } };
    const { hash_key } = await api('/v1/export/http', { ext_type: 'XLSX', title: evil, user_id: evil, ...more, source_http });
    const page = await visitor();
    await login(page);
    await page.goto(`${base}/console/x/${hash_key}`);
    await page.locator('.state.failed').waitFor();
    await page.getByText('HTTP 500').first().waitFor(); // of the callback
    await page.getByRole('heading', { name: evil }).waitFor();
    await page.goto(`${base}/console/?q=${encodeURIComponent(evil)}`);
    await page.getByRole('link', { name: evil }).waitFor();
    await page.goto(`${base}/console/x/${hash_key}/share`);
    await page.goto((await api('/v1/export/share', { key: hash_key })).url);
    assert.equal(await page.locator('img, main script').count(), 0);
    await page.context().close();
  },
  async 'a share page that downloads by itself, with and without JavaScript'() {
    hold();
    const { hash_key } = await submit('By itself', `http://127.0.0.1:${port + 1}/self`);
    const { url } = await api('/v1/export/share', { key: hash_key });
    const pages = [await visitor(), await visitor({ javaScriptEnabled: false })];
    for (const page of pages) {
      await page.goto(`${url}?download=1`);
      await page.getByRole('heading', { name: 'Your file is being made' }).waitFor();
    }
    const files = Promise.all(pages.map((page) => page.waitForEvent('download')));
    letGo();
    for (const file of await files) await assertWhole(file);
    await pages[0].getByRole('heading', { name: 'Your file is ready' }).waitFor();
    for (const page of pages) await page.context().close();
  },
  async 'the widget on pages of other origins'() {
    hold();
    const { hash_key } = await submit('Embedded', `http://127.0.0.1:${port + 1}/panel`);
    const { url } = await api('/v1/export/share', { key: hash_key });
    const show = (page, at) => page.goto(`http://127.0.0.1:${at}/?src=${encodeURIComponent(`${url}/progress`)}`);
    const refused = [], known = await visitor(), unknown = await visitor({}, refused);
    await show(unknown, panels[1]);
    await until('the unknown origin is refused', () => refused.some((m) => /CORS policy/.test(m)));
    assert.equal(await unknown.evaluate(() => document.querySelector('sheaf-progress').shadowRoot), null);
    const asks = `fetch(${JSON.stringify(`${url}/progress`)}).then(() => 'read', () => 'refused')`;
    assert.equal(await unknown.evaluate(asks), 'refused');
    await known.addInitScript(() => {
      document.addEventListener('sheaf:done', (e) => { document.title = `done ${e.detail.percent}`; });
    });
    await show(known, panels[0]);
    await known.locator('sheaf-progress').getByText('Your file is being made').waitFor();
    await known.waitForFunction(() => document.querySelector('sheaf-progress').shadowRoot.querySelector('progress').value >= 20);
    await clean(known, 'the widget');
    letGo();
    await known.waitForFunction(() => document.title === 'done 100');
    const link = known.locator('sheaf-progress').getByRole('link', { name: 'Get it' });
    const [file] = await Promise.all([known.waitForEvent('download'), link.click()]);
    await assertWhole(file);
    for (const page of [known, unknown]) await page.context().close();
  },
  async 'every page in both languages and themes, on a desk and on a phone'() {
    const all = (await api('/v1/export/list')).exports, one = (state) => all.find((x) => x.state === state)?.hash_key;
    const done = one('succeeded'), failed = one('failed');
    const shared = async (key) => new URL((await api('/v1/export/share', { key, return_url: 'https://shop.example/' })).url).pathname;
    const paths = {
      list: '/console/', none: '/console/?q=zzzz', missing: '/console/x/none', forged: '/s/none',
      detail: `/console/x/${done}`, wrong: `/console/x/${failed}`, share: `/console/x/${done}/share`,
      shared: await shared(done), sorry: await shared(failed),
      new: '/console/new?demo=1', again: `/console/new?from=${done}`, bulk: '/console/bulk?state=failed&action=retry',
    };
    const visit = async (name, options, axe) => {
      const page = await visitor(options);
      await page.goto(`${base}/console/login`);
      await clean(page, `login ${name}`);
      await login(page);
      for (const [what, path] of Object.entries(paths)) {
        await page.goto(base + path);
        await clean(page, `${what} ${name}`, axe.includes(what) || axe === 'all');
      }
      await page.goto(`${base}/docs`);
      await clean(page, `docs ${name}`, axe.includes('docs')); // axe takes half a minute for this one
      await page.context().clearCookies();
      await login(page, admin);
      await page.goto(`${base}/console/system`);
      await clean(page, `system ${name}`);
      await page.context().close();
    };
    await Promise.all([
      visit('desk light en', { colorScheme: 'light' }, 'all'),
      visit('desk dark zh', { colorScheme: 'dark', locale: 'zh-CN' }, 'all'),
      visit('phone zh', { viewport: { width: 320, height: 640 }, locale: 'zh-CN' }, ['list', 'detail', 'new', 'docs']),
    ]);
  },
  async 'share page without JavaScript, and its file'() {
    const { exports: [x] } = await api('/v1/export/list?state=succeeded');
    const { url } = await api('/v1/export/share', { key: x.hash_key });
    const page = await visitor({ javaScriptEnabled: false });
    await page.goto(url);
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download' }).click()]);
    assert.match(file.suggestedFilename(), /\.zip$/);
    await page.context().close();
  },
  async 'isolation and a revoked key'() {
    const { exports: [x] } = await api('/v1/export/list');
    const page = await visitor(), boss = await visitor(), left = await visitor();
    await login(page, other);
    await login(left, other);
    await left.locator('#live').waitFor();
    assert.equal((await page.goto(`${base}/console/x/${x.hash_key}`)).status(), 404);
    await login(boss, admin);
    await boss.goto(`${base}/console/x/${x.hash_key}?tenant=shop`);
    await boss.getByRole('heading', { name: x.title }).waitFor();
    execFileSync(sheaf, ['keys', 'revoke', '--api-keys', keysFile, other.split('_')[1]]);
    await until('the session ends', async () => { await page.goto(`${base}/console/`); return page.url().includes('/login'); });
    await left.getByRole('link', { name: 'New', exact: true }).click();
    await left.waitForURL(/\/login/);
    for (const p of [page, boss, left]) await p.context().close();
  },
  async 'under a path, with a proxy that strips it and one that does not'() {
    await stop(server);
    for (const [at, strip] of [[port + 2, true], [port + 3, false]]) {
      const public_ = `http://127.0.0.1:${at}/ops/sheaf`, front = proxy(at, strip);
      server = await start('--public-url', public_);
      const page = await visitor();
      await login(page, key, public_);
      await page.locator('#live').waitFor();
      await page.locator('a[data-row]').first().click();
      await page.locator('h1').waitFor();
      assert.ok(page.url().startsWith(`${public_}/console/x/`), page.url());
      const [x] = (await api('/v1/export/list?state=succeeded')).exports.filter((e) => e.title === 'Live');
      await page.goto((await api('/v1/export/share', { key: x.hash_key })).url);
      assert.ok(page.url().startsWith(`${public_}/s/`), page.url());
      const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download' }).click()]);
      await assertWhole(file);
      await page.context().close();
      await stop(server);
      front.closeAllConnections();
      front.close();
    }
  },
};
let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  const begun = Date.now(), took = () => `${((Date.now() - begun) / 1000).toFixed(1)} s`;
  try { await run(); console.log(`ok   ${name} (${took()})`); } catch (e) { failed++; console.log(`FAIL ${name}\n${e.stack}`); }
}
for (const p of problems) console.log(`FAIL ${p}`);
await browser.close();
if (server.exitCode === null && server.signalCode === null) await stop(server);
for (const s of [source, hostile, ...panelServers]) { s.close(); s.closeAllConnections(); }
console.log(`${Object.keys(cases).length - failed} of ${Object.keys(cases).length} cases, ${count} pages checked with axe`);
process.exit(failed || problems.length ? 1 : 0);
