//go:build !failpoints

package events

// partSize is how much of a page one message carries where the server's
// max_payload lets it; its default is 1 MiB. Few pages are larger, and that
// matters: a page of several messages is an atomic batch, for which the server
// writes and syncs a store of its own (measured: a million rows in pages of
// 220 KB took 2.3 to 7.5 s to crawl in parts of 64 KiB, 0.8 to 2.5 s whole).
// Pages are read by direct gets, which large messages do not slow.
const partSize = 1 << 20
