// Exports an API with Sheaf: submits, watches, downloads, verifies the callback. Needs Node 20.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { once } from 'node:events'
import { finished } from 'node:stream/promises'

const env = process.env
const server = (env.SHEAF_URL ?? 'http://127.0.0.1:8080').replace(/\/+$/, '')
const secret = env.SHEAF_CALLBACK_SECRET
const source = env.SOURCE_URL ?? server + '/demo/page'

// ask sends one request; with a body it is a POST.
async function ask(path, body) {
  const headers = env.SHEAF_API_KEY ? { Authorization: `Bearer ${env.SHEAF_API_KEY}` } : {}
  const options = { headers, redirect: 'error' }
  if (body) {
    headers['Content-Type'] = 'application/json'
    Object.assign(options, { method: 'POST', body: JSON.stringify(body) })
  }
  const answer = await fetch(server + path, options)
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}: ${await answer.text()}`)
  return answer
}

const call = async (path, body) => (await (await ask(path, body)).json()).data

// watch yields the events of an export until it has ended.
async function* watch(key) {
  const stream = await ask('/v1/export/watch?' + new URLSearchParams({ key }))
  let text = ''
  for await (const chunk of stream.body.pipeThrough(new TextDecoderStream())) {
    const events = (text + chunk).split('\n\n')
    text = events.pop()
    for (const event of events) {
      const fields = Object.fromEntries(event.split('\n').map((line) => line.split(/: (.*)/s, 2)))
      if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) }
    }
  }
}

// download writes the file of an export and compares it with its SHA-256.
async function download(detail, folder) {
  const [want] = detail.files
  const path = join(folder, basename(want.name))
  const answer = await fetch(detail.down_url)
  if (!answer.ok) throw new Error(`download: HTTP ${answer.status}`)
  const hash = createHash('sha256')
  const file = createWriteStream(path)
  for await (const chunk of answer.body) {
    hash.update(chunk)
    if (!file.write(chunk)) await once(file, 'drain')
  }
  file.end()
  await finished(file)
  if (hash.digest('hex') !== want.sha256) throw new Error(`${path} is damaged`)
  return path
}

// verify checks the signature of a callback as Standard Webhooks describes; the package standardwebhooks does too.
function verify(secret, headers, body) {
  const sent = headers['webhook-timestamp']
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64')
  const want = createHmac('sha256', key).update(`${headers['webhook-id']}.${sent}.`).update(body).digest()
  const known = String(headers['webhook-signature']).split(' ').some((one) => {
    const [version, signature] = one.split(',')
    const given = Buffer.from(signature ?? '', 'base64')
    return version === 'v1' && given.length === want.length && timingSafeEqual(given, want)
  })
  if (!known || !(Math.abs(Date.now() / 1000 - sent) <= 300)) {
    throw new Error('the callback is not signed by this server, or is old')
  }
  return JSON.parse(body)
}

// receiveCallback serves callbacks on a free port.
async function receiveCallback() {
  let take
  const callback = new Promise((resolve) => (take = resolve))
  const receiver = createServer(async (request, response) => {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    try {
      const got = verify(secret, request.headers, Buffer.concat(chunks))
      response.writeHead(204).end()
      take(got) // the same webhook-id may come again
    } catch {
      response.writeHead(401).end()
    }
  })
  receiver.listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  return { receiver, callback, url: `http://127.0.0.1:${receiver.address().port}/done` }
}

// detailByNATS asks for the same detail over NATS, with the official client.
async function detailByNATS(key) {
  if (!env.SHEAF_NATS) return console.log('skipped NATS: SHEAF_NATS is not set')
  let nats
  try {
    nats = await import('nats')
  } catch {
    return console.log('skipped NATS: npm install nats')
  }
  const connection = await nats.connect({ servers: env.SHEAF_NATS })
  const answer = await connection.request('sheaf.api.default.detail', JSON.stringify({ key }), { timeout: 10000 })
  await connection.close()
  console.log('by NATS: status', answer.json().data.status)
}

const hook = secret ? await receiveCallback() : undefined
const { hash_key: key } = await call('/v1/export/http', {
  timestamp: Math.floor(Date.now() / 1000), ext_type: 'XLSX', title: 'Orders (Node)', user_id: 'example',
  callback: hook?.url, source_http: { url: source, param: { limit: 100 } },
})
let detail = {}
for await (const { name, data } of watch(key)) {
  if (name === 'progress') console.log('rows:', data.progress.rows)
  detail = data
}
if (detail.status !== 2) throw new Error(`the export failed: ${detail.fail_reason} (${detail.error_code})`)
const folder = await mkdtemp(join(tmpdir(), 'sheaf-'))
console.log(`downloaded ${basename(await download(detail, folder))}: ${detail.rows} rows, checked`)
await rm(folder, { recursive: true })
if (hook) {
  console.log('callback', (await hook.callback).event, 'verified')
  hook.receiver.close()
} else {
  console.log('skipped the callback: SHEAF_CALLBACK_SECRET is not set')
}
await detailByNATS(key)
