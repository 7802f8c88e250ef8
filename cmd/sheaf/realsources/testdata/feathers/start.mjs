// FeathersJS with its memory service: $skip and $limit, {total, limit, skip, data}. $limit above 1000 is cut to it.
// npm ci; PORT=9107 node start.mjs
import { feathers } from '@feathersjs/feathers';
import { koa, rest, bodyParser, errorHandler } from '@feathersjs/koa';
import { MemoryService } from '@feathersjs/memory';
import { orders } from '../rows.mjs';
const app = koa(feathers());
app.use(errorHandler());
app.use(bodyParser());
app.configure(rest());
const service = new MemoryService({ multi: true, paginate: { default: 100, max: 1000 } });
app.use('orders', service);
await service.create(orders());
const port = +(process.env.PORT ?? 9107);
await app.listen(port, '127.0.0.1');
console.log(`http://127.0.0.1:${port}/orders?$limit=100&$skip=0`);
