package events

// States of exports in lists. Progress, which is a hint, distinguishes the first three.
const (
	ListRunning         = "running"
	ListQueued          = "queued"
	ListWaitingForSpace = "waiting_for_space"
	ListFailed          = "failed"
	ListSucceeded       = "succeeded" // also after the file expired
	ListCancelled       = "cancelled"
)
