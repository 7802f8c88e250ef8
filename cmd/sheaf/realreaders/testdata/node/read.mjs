// node read.mjs READER FILE prints each row as a line of JSON: an array with null, true, false or [kind, text]
// for each column. Kinds are text, number, float, date, time (a moment in UTC), clock (no zone) and json.
import fs from 'node:fs'

const pad = (n, digits) => String(n).padStart(digits, '0')

// clock writes microseconds since 1970 as ISO 8601. A Date would lose the microseconds.
function clock(micros) {
  const day = 86_400_000_000n
  const days = micros >= 0n ? micros / day : -((-micros + day - 1n) / day)
  const rest = micros - days * day
  const s = rest / 1_000_000n
  return `${date(Number(days))}T${pad(s / 3600n, 2)}:${pad((s / 60n) % 60n, 2)}:${pad(s % 60n, 2)}.${pad(rest % 1_000_000n, 6)}`
}

function date(days) {
  const d = new Date(days * 86_400_000)
  return `${pad(d.getUTCFullYear(), 4)}-${pad(d.getUTCMonth() + 1, 2)}-${pad(d.getUTCDate(), 2)}`
}

const number = (n) => ['number', Object.is(n, -0) ? '-0' : String(n)]

const out = []
const print = (row) => {
  out.push(JSON.stringify(row))
  if (out.length === 10_000) flush()
}
const flush = () => {
  let rest = Buffer.from(out.map((line) => line + '\n').join(''))
  while (rest.length > 0) {
    try {
      rest = rest.subarray(fs.writeSync(1, rest))
    } catch (e) {
      if (e.code !== 'EAGAIN') throw e
    }
  }
  out.length = 0
}

const readers = {
  async exceljs(file) {
    const { default: Excel } = await import('exceljs')
    const book = new Excel.stream.xlsx.WorkbookReader(file, { sharedStrings: 'cache', styles: 'cache', worksheets: 'emit', hyperlinks: 'ignore' })
    let columns = 0
    for await (const sheet of book) {
      for await (const row of sheet) {
        columns ||= row.values.length - 1
        const cells = []
        for (let c = 1; c <= columns; c++) {
          const v = row.values[c] ?? null
          if (v instanceof Date) cells.push(['clock', clock(BigInt(v.getTime()) * 1000n)])
          else if (typeof v === 'number') cells.push(number(v))
          else if (typeof v === 'string') cells.push(['text', v.replace(/_x([0-9A-F]{4})_/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)))])
          else cells.push(v)
        }
        print(cells)
      }
    }
  },

  async papaparse(file) {
    const { default: Papa } = await import('papaparse')
    const { data, errors } = Papa.parse(fs.readFileSync(file, 'utf8'), { delimiter: file.endsWith('.tsv') ? '\t' : ',' })
    if (errors.length > 0) throw new Error(JSON.stringify(errors[0]))
    if (data.at(-1).length === 1 && data.at(-1)[0] === '') data.pop() // behind the last line break
    for (const row of data) print(row.map((v) => ['text', v]))
  },

  'JSON.parse'(file) {
    const text = fs.readFileSync(file, 'utf8')
    const rows = file.endsWith('.json') ? JSON.parse(text) : text.trimEnd().split('\n').map((line) => JSON.parse(line))
    print(Object.keys(rows[0]).map((name) => ['text', name]))
    for (const row of rows) {
      print(Object.values(row).map((v) => {
        if (typeof v === 'number') return ['float', number(v)[1]]
        if (typeof v === 'string') return ['text', v]
        return v !== null && typeof v === 'object' ? ['json', JSON.stringify(v)] : v
      }))
    }
  },

  async hyparquet(file) {
    const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import('hyparquet')
    const { compressors } = await import('hyparquet-compressors')
    const buffer = await asyncBufferFromFile(file)
    const metadata = await parquetMetadataAsync(buffer)
    const columns = parquetSchema(metadata).children.map((c) => c.element)
    print(columns.map((c) => ['text', c.name]))
    const parsers = {
      timestampFromMilliseconds: (v) => ({ micros: v * 1000n }),
      timestampFromMicroseconds: (v) => ({ micros: v }),
      timestampFromNanoseconds: (v) => ({ micros: v / 1000n }),
      dateFromDays: (v) => ({ days: v }),
    }
    for (let rowStart = 0; rowStart < Number(metadata.num_rows); rowStart += 20_000) {
      const rowEnd = Math.min(rowStart + 20_000, Number(metadata.num_rows))
      for (const row of await parquetReadObjects({ file: buffer, metadata, compressors, parsers, rowStart, rowEnd })) {
        print(columns.map((c) => {
          const v = row[c.name] ?? null
          const kind = c.logical_type?.type
          if (v === null) return v
          if (kind === 'JSON') return ['json', JSON.stringify(v)]
          if (kind === 'DECIMAL') return ['number', v.toFixed(c.logical_type.scale)] // it is a float64
          if (typeof v === 'boolean') return v
          if (v.micros !== undefined) return [c.logical_type.isAdjustedToUTC ? 'time' : 'clock', clock(v.micros)]
          if (v.days !== undefined) return ['date', date(v.days)]
          if (typeof v === 'bigint') return ['number', String(v)]
          if (typeof v === 'number') return number(v)
          return ['text', v]
        }))
      }
    }
  },

  async duckdb(file) {
    const { DuckDBInstance } = await import('@duckdb/node-api')
    const connection = await (await DuckDBInstance.create(':memory:')).connect()
    const query = `from read_parquet('${file.replaceAll("'", "''")}')`
    const types = (await connection.runAndReadAll(`describe ${query}`)).getRows().map((column) => column[1])
    const result = await connection.stream(query)
    print(result.columnNames().map((name) => ['text', name]))
    for (let chunk; (chunk = await result.fetchChunk()) && chunk.rowCount > 0; ) {
      for (const row of chunk.getRows()) {
        print(row.map((v, i) => {
          if (v === null || typeof v === 'boolean') return v
          if (types[i] === 'TIMESTAMP WITH TIME ZONE') return ['time', clock(v.micros)]
          if (types[i] === 'TIMESTAMP') return ['clock', clock(v.micros)]
          if (types[i] === 'DATE') return ['date', date(v.days)]
          if (types[i] === 'JSON') return ['json', v]
          if (typeof v === 'number') return number(v)
          if (typeof v === 'string') return ['text', v]
          return ['number', String(v)] // BIGINT, DECIMAL
        }))
      }
    }
  },
}

const [reader, file] = process.argv.slice(2)
await readers[reader](file)
flush()
