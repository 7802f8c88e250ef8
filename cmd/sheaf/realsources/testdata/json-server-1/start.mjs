// json-server 1: {first, prev, next, last, pages, items, data}: items is the number of rows, next a page number. A page
// past the end is the last page again. npm ci; PORT=9102 node start.mjs
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Low, Memory } from 'lowdb';
import { createApp } from 'json-server/lib/app.js';
import { orders } from '../rows.mjs';
const db = new Low(new Memory(), { orders: orders() });
db.data = { orders: orders() };
const port = +(process.env.PORT ?? 9102);
createApp(db, { logger: false, static: [] }).listen(port, () => console.log(`http://127.0.0.1:${port}/orders?_page=1&_per_page=100`), '127.0.0.1');
