package events

// Names of the streams.
const (
	StreamSubmit    = "SHEAF_SUBMIT"    // work queue of producers' submissions
	StreamEvents    = "SHEAF_EVENTS"    // the log
	StreamPages     = "SHEAF_PAGES"     // the rows
	StreamTimers    = "SHEAF_TIMERS"    // schedules of callback attempts
	StreamPrivate   = "SHEAF_PRIVATE"   // sealed source headers, start counts, the cluster's fingerprint
	StreamCallbacks = "SHEAF_CALLBACKS" // results for producers without HTTP

	StreamIdempotency = "SHEAF_IDEMPOTENCY" // the exports that callers' Idempotency-Keys began
)

// Names of the durable consumers, one for each kind of work.
const (
	ConsumerSubmissions = "ingress"
	ConsumerCrawler     = "crawler"
	ConsumerAssembler   = "assembler"
	ConsumerNotifier    = "notifier"
	ConsumerDueCallback = "notifier-due"
)

// Space is how much room a stream has.
type Space struct {
	Limit int64 // bytes that it may take; 0 or less: no limit
	Used  int64 // bytes that it takes
}
