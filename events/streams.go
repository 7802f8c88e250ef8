package events

// Names of the streams.
const (
	StreamSubmit    = "SHEAF_SUBMIT"    // work queue of producers' submissions
	StreamEvents    = "SHEAF_EVENTS"    // the log
	StreamPages     = "SHEAF_PAGES"     // the rows
	StreamTimers    = "SHEAF_TIMERS"    // schedules of callback attempts
	StreamPrivate   = "SHEAF_PRIVATE"   // sealed source headers, start counts, the cluster's fingerprint
	StreamCallbacks = "SHEAF_CALLBACKS" // results for producers without HTTP

	// StreamLeases holds what each crawler wants and holds of the limits of hosts, tenants and exports. Only a
	// cluster has it.
	StreamLeases = "SHEAF_LEASES"

	StreamIdempotency = "SHEAF_IDEMPOTENCY" // exports started with Idempotency-Keys
	StreamWork        = "SHEAF_WORK"        // work queue of spans of pages, only where processes share the streams
)

// Names of the durable consumers, one for each kind of work.
const (
	ConsumerSubmissions = "ingress"
	ConsumerCrawler     = "crawler"
	ConsumerAssembler   = "assembler"
	ConsumerNotifier    = "notifier"
	ConsumerDueCallback = "notifier-due"
	ConsumerSpans       = "spans"
)

// Space is the size of a stream and its limit.
type Space struct {
	Limit int64 // bytes; 0 or less: unlimited
	Used  int64 // bytes
}
