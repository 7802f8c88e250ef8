// Cases of the pages in Chromium. Each page must have no finding of axe, no violation of its policy and no
// error of a script.
import assert from 'node:assert/strict';
import { spawn, execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import http from 'node:http';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const { SHEAF: sheaf, CHROMIUM: executablePath, TEMPFOLDER: temp, SHOTS: shots } = process.env;
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
const visitor = async (options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, locale: 'en', ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  page.on('console', (m) => { if (m.type() === 'error' && !/status of (4|503)/.test(m.text())) problems.push(`${page.url()}: ${m.text()}`); });
  page.on('pageerror', (e) => problems.push(`${page.url()}: ${e.message}`));
  return page;
};
const login = async (page, as = key, at = base) => { await page.goto(`${at}/console/`); await page.fill('[name=key]', as); await page.click('main form button'); await page.waitForURL(/console\/(\?|$)/); };
let count = 0;
const clean = async (page, name) => {
  const { violations } = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']).analyze();
  for (const v of violations) problems.push(`axe on ${name}: ${v.id} at ${v.nodes.map((n) => n.target).join(', ')}`);
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) problems.push(`${name} is wider than its window`);
  if (shots) await page.screenshot({ path: `${shots}/${name.replace(/\W+/g, '-')}.png` });
  count++;
};

let server = await start('--console-name', 'PROD', '--console-colour', 'red');
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
    assert.ok(statSync(await file.path()).size > 1000);
    await page.goBack();
    await page.locator(`#x-${hash_key}`).waitFor();
    await page.context().close();
  },
  async 'new export, cancel in a dialog, retry'() {
    open = false;
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
    for (const n of [1, 2]) await submit(`Refused ${n}`, 'http://127.0.0.1:1/none');
    await until('both failed', async () => (await api('/v1/export/list?state=failed')).exports.length === 2);
    const page = await visitor({ javaScriptEnabled: false });
    await login(page);
    await page.goto(`${base}/console/bulk?state=failed&action=retry`);
    await page.getByText('2 exports match').waitFor();
    await submit('Refused 3', 'http://127.0.0.1:1/none');
    await until('three failed', async () => (await api('/v1/export/list?state=failed')).exports.length === 3);
    await page.getByRole('button', { name: 'Retry them' }).click();
    await page.getByText('has changed').waitFor();
    await page.getByRole('button', { name: 'Retry them' }).click();
    await page.getByText('3 exports run again').waitFor();
    await page.context().close();
  },
  async 'every page in both languages and themes, on a desk and on a phone'() {
    const all = (await api('/v1/export/list')).exports, one = (state) => all.find((x) => x.state === state)?.hash_key;
    const share = (await api('/v1/export/share', { key: one('succeeded'), return_url: 'https://shop.example/' })).url;
    for (const [name, options] of Object.entries({ 'desk light en': { colorScheme: 'light' }, 'desk dark zh': { colorScheme: 'dark', locale: 'zh-CN' }, 'phone zh': { viewport: { width: 320, height: 640 }, locale: 'zh-CN' } })) {
      const page = await visitor(options);
      await page.goto(`${base}/console/login`);
      await clean(page, `login ${name}`);
      await login(page);
      for (const [what, path] of Object.entries({ list: '/console/', none: '/console/?q=zzzz', detail: `/console/x/${one('succeeded')}`, new: '/console/new?demo=1', share: `/console/x/${one('succeeded')}/share`, missing: '/console/x/none', shared: new URL(share).pathname, forged: '/s/none' })) {
        await page.goto(base + path);
        await clean(page, `${what} ${name}`);
      }
      await page.context().close();
    }
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
    const page = await visitor(), boss = await visitor();
    await login(page, other);
    assert.equal((await page.goto(`${base}/console/x/${x.hash_key}`)).status(), 404);
    await login(boss, admin);
    await boss.goto(`${base}/console/x/${x.hash_key}?tenant=shop`);
    await boss.getByRole('heading', { name: x.title }).waitFor();
    execFileSync(sheaf, ['keys', 'revoke', '--api-keys', keysFile, other.split('_')[1]]);
    await until('the session ends', async () => { await page.goto(`${base}/console/`); return page.url().includes('/login'); });
    await page.context().close();
    await boss.context().close();
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
      await page.context().close();
      await stop(server);
      front.closeAllConnections();
      front.close();
    }
  },
};
let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try { await run(); console.log(`ok   ${name}`); } catch (e) { failed++; console.log(`FAIL ${name}\n${e.stack}`); }
}
for (const p of problems) console.log(`FAIL ${p}`);
await browser.close();
if (server.exitCode === null && server.signalCode === null) await stop(server);
source.close();
source.closeAllConnections();
console.log(`${Object.keys(cases).length - failed} of ${Object.keys(cases).length} cases, ${count} pages checked with axe`);
process.exit(failed || problems.length ? 1 : 0);
